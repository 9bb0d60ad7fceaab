"""Auto Search: candidates of configs, stages, and its flows on simulated ranks."""

import math
from itertools import islice
from statistics import fmean

import pytest

from disttune.config.errors import InputError
from disttune.config.goal import Goal, Objective
from disttune.config.schemes import Scheme
from disttune.schedule.events import Commit
from disttune.schedule.exit_policy import ExitPolicy
from disttune.schedule.strategy_check import check_strategy
from disttune.schedule.synthetic import additive_landscape, synthetic_cnn, synthetic_space
from disttune.strategy.auto_search import AutoSearch
from disttune.strategy.auto_search_candidates import ConfigCandidates
from disttune.strategy.fine_tuning import SAMPLER_NAMES, Box, asker
from disttune.strategy.tuning import Tuning
from tests.simulated import SimulatedJob, Simulation, simulate
from tests.strategy.tunings import proposals, space_of, tuning_of

FINE = {"OptimAlgorithm": ["adaround", "adaquant"], "NumIterations": [100, 200], "LearningRate": [0.01, 0.1]}
SPACE = {
    "calibrate_method": ["MinMax", "Percentile", "Entropy"],
    "include_cle": [False, True],
    "include_fast_ft": [False, True],
    "extra_options": {"FastFinetune": FINE},
}
IN_SPACE = {
    "calibrate_method": ["MinMax", "Percentile"],
    "activation_type": "uint8",
    "weight_type": "int8",
    "include_cle": [False, True],
    "include_sq": [True, False],
    "extra_options": {"Percentile": 99.999, "SmoothAlpha": [0.3, 0.5]},
}


def candidate(tuning, **config):
    return ConfigCandidates(tuning).candidate(config)


def job_of(strategy: AutoSearch | None = None, **keywords) -> SimulatedJob:
    """On a synthetic model where low learning rates of adaround are best."""
    summary = synthetic_cnn()
    losses = additive_landscape(1)

    def metric(found) -> float:
        weight = found.config_of("conv_0").weight
        rate = dict(weight.options).get("learning_rate", 0.1)
        gain = (
            0.5 + 0.01 * (weight.method == "adaround") if weight.options or weight.method == "adaround" else 0
        )
        plain = sum(found.config_of(op).activation.method == "minmax" for op in found.ops)
        return losses(found) * 0.01 + gain - 0.02 * abs(math.log10(rate) + 1.7) - 0.001 * plain

    return SimulatedJob(
        lambda: strategy or AutoSearch(SPACE, **keywords),
        synthetic_space(summary),
        metric,
        goal=9.0,
        policy=ExitPolicy("goal", max_trials=60),
        duration_s=lambda item, rank: 0.5 + len(str(item)) % 7 / 5 + rank % 3,
        summary=summary,
        probe=lambda probe: 0.1,
    )


def run(ranks: int = 1, **keywords) -> Simulation:
    return simulate(job_of(**keywords), ranks)


def rows(simulation: Simulation):
    return [c.trial for c in simulation.commands if isinstance(c, Commit)]


@pytest.mark.parametrize(
    ("config", "activation", "weight"),
    [
        ({"calibrate_method": "MinMax"}, ("minmax", None), "minmax"),
        ({"calibrate_method": "MinMax", "CalibMovingAverage": True}, ("ema", 0.01), "minmax"),
        (
            {"calibrate_method": "MinMax", "CalibMovingAverage": True, "CalibMovingAverageConstant": 0.001},
            ("ema", 0.001),
            "minmax",
        ),
        ({"calibrate_method": "Percentile", "Percentile": 99.9}, ("percentile", 99.9), "minmax"),
        ({"calibrate_method": "LayerWisePercentile"}, ("mse", None), "minmax"),
        ({"calibrate_method": "Entropy"}, ("entropy", None), "minmax"),
        ({"calibrate_method": "MinMSE"}, ("pow2_mse", None), "pow2_mse"),
        ({"calibrate_method": "NonOverflow"}, ("pow2_nonoverflow", None), "pow2_nonoverflow"),
    ],
)
def test_a_calibration_method_stands_for_threshold_methods(config, activation, weight):
    found = candidate(tuning_of("Conv"), **config).config_of("Conv_0")
    assert ((found.activation.method, found.activation.parameter), found.weight.method) == (
        activation,
        weight,
    )


def test_types_and_symmetry_are_those_of_the_config_and_granularity_is_the_jobs():
    found = candidate(
        tuning_of("Conv"),
        activation_type="int8",
        ActivationSymmetric=True,
        weight_type="uint8",
        WeightSymmetric=False,
    ).config_of("Conv_0")
    assert found.activation == Scheme("int8", True)
    assert found.weight == Scheme("uint8", False, "per_channel")


def test_types_of_16_bits_are_one_candidate_with_every_method():
    space = {
        "calibrate_method": ["MinMax", "Entropy", "MinMSE"],
        "activation_type": "int16",
        "weight_type": "int16",
    }
    assert len(proposals(AutoSearch(space), tuning_of("Conv"))) == 1


def test_equalizing_and_smoothing_are_recipes():
    found = candidate(tuning_of("Conv"), include_cle=True, include_sq=True, SmoothAlpha=0.6)
    assert dict(found.recipes) == {
        "cross_layer_equalization": True,
        "smooth_quant": True,
        "smooth_quant_alpha": 0.6,
    }
    assert candidate(tuning_of("Conv"), include_cle=False, include_sq=False).recipes == ()


def test_fine_tuning_is_the_weight_method_of_layers_alone():
    tuning = tuning_of("Conv", "LSTM", placement="all")
    found = candidate(
        tuning,
        include_fast_ft=True,
        OptimAlgorithm="adaround",
        NumIterLR=(50, 0.2),
        BetaRange=(10.0, 3.0),
        RegParam=0.1,
    )
    conv = found.config_of("Conv_0").weight
    assert conv.method == "adaround"
    assert dict(conv.options) == {
        "iterations": 50, "learning_rate": 0.2, "beta_start": 10.0, "beta_end": 3.0, "reg_param": 0.1,
    }  # fmt: skip
    assert found.config_of("LSTM_1").weight.method == "minmax"


def test_a_job_that_quantizes_nothing_statically_is_refused():
    with pytest.raises(InputError, match='approach = "static"'):
        ConfigCandidates(tuning_of("MatMul", approach="dynamic"))


def test_the_default_space_is_told_with_its_counts_and_draws_lazily():
    tuning = tuning_of("Conv", "MatMul")
    stage = next(AutoSearch().stages(tuning))

    assert len({c.digest for c in islice(stage.items, 50)}) == 50
    assert tuning.notes[0].startswith(
        "auto search: 589,824 combinations, 43,200 of them distinct (filtered: "
    )
    assert tuning.notes[1].startswith(
        "auto search: 11,232 differ here (include_auto_mp: mixed precision comes"
    )
    assert "DataSize: all calibration samples count; FixedSeed: nothing is drawn at random" in tuning.notes[1]


def test_a_space_that_leaves_nothing_to_run_is_refused():
    strategy = AutoSearch({"activation_type": "int8", "weight_type": "uint8"})
    with pytest.raises(InputError, match="leaves nothing to run"):
        next(strategy.stages(tuning_of("Conv")))


def test_random_search_tries_the_same_candidates_in_another_order_that_the_seed_decides():
    orders = [proposals(AutoSearch(IN_SPACE, "random"), tuning_of("Conv", seed=s)) for s in (1, 1, 2)]
    grid = proposals(AutoSearch(IN_SPACE), tuning_of("Conv"))

    assert orders[0] == orders[1] != orders[2]
    assert orders[0] != grid
    assert {c.digest for c in orders[0]} == {c.digest for c in orders[2]} == {c.digest for c in grid}


@pytest.mark.parametrize("keywords", [{}, {"search_algo": "random"}, {"two_stage_search": True}])
def test_it_is_a_strategy_like_any_other(keywords):
    check_strategy(lambda: AutoSearch(IN_SPACE, **keywords), ranks=(2, 7), seeds=(0,))


def test_two_stages_fine_tune_the_best_calibration():
    trials = rows(run(two_stage_search=True))
    first = [t for t in trials if t.stage == "auto search, calibration"]
    second = [t for t in trials if t.stage == "auto search, fine-tuning"]
    best = max(first, key=lambda t: t.metric).candidate

    assert (len(first), len(second)) == (6, 8)
    for trial in second:
        assert trial.candidate.recipes == best.recipes
        assert trial.candidate.config_of("conv_0").activation == best.config_of("conv_0").activation
        assert trial.candidate.config_of("conv_0").weight.method in ("adaround", "adaquant")


def test_mixed_precision_starts_from_the_best_config():
    strategy = AutoSearch({**IN_SPACE, "include_auto_mp": [False, True]})
    trials = rows(run(strategy=strategy))
    configs = [t for t in trials if t.stage == "auto search"]
    mixes = [t for t in trials if t.stage != "auto search"]
    best = max(configs, key=lambda t: t.metric).candidate

    assert len(configs) == 12
    assert mixes
    assert {t.candidate.recipes for t in mixes} == {best.recipes}


def test_the_first_of_two_stages_goes_on_where_the_goal_is_met():
    strategy = AutoSearch(SPACE, two_stage_search=True)
    stage = next(strategy.stages(tuning_of("Conv")))
    assert not stage.goal_stops


@pytest.mark.parametrize("name", SAMPLER_NAMES)
def test_a_fine_tuning_search_has_the_same_table_on_any_number_of_ranks(name):
    keywords = {
        "advanced_fastft_search": True,
        "advanced_fastft_params": {"sampler_algo": name, "n_trials": 9},
    }
    alone = run(**keywords)

    assert 6 < len(alone.table) <= 6 + 9
    for ranks in (2, 7):
        assert run(ranks, **keywords).table == alone.table


def test_a_fine_tuning_search_that_is_cut_goes_on_to_the_same_table():
    job = job_of(advanced_fastft_search=True)
    alone = simulate(job, 1)
    cut = simulate(job, 3, until_s=alone.time_s / 2)
    resumed = simulate(job, 2, recording=cut.known)

    assert 6 < len(cut.table) < len(alone.table)
    assert resumed.table == alone.table


@pytest.mark.parametrize("name", ["TPE", "GPS", "CmaEs"])
def test_samplers_learn_from_batch_to_batch(name):
    box = Box(("adaround",), (100, 100), (1e-5, 1.0))
    sampler = asker(name, box, seed=5, batch=6)
    distances = []
    for _ in range(8):
        points = [sampler.ask() for _ in range(6)]
        found = [abs(math.log10(rate) + 2) for _, _, rate in points]
        for distance in found:
            sampler.tell(distance)
        distances.append(fmean(found))
    assert fmean(distances[-2:]) < 0.7 * distances[0]


@pytest.mark.parametrize("name", SAMPLER_NAMES)
def test_points_stay_in_the_box(name):
    box = Box(("adaround", "adaquant"), (1000, 4000), (0.001, 0.1))
    sampler = asker(name, box, seed=0, batch=4)
    for n in range(8):
        algorithm, iterations, rate = sampler.ask()
        assert algorithm in box.algorithms
        assert iterations in (1000, 2000, 3000, 4000)
        assert 0.001 <= rate <= 0.1
        sampler.tell(None if n == 3 else float(n))


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"search_algo": "grid"}, 'no search_algo "grid". Nearest: "grid_search"'),
        ({"search_space": []}, "search_space is empty"),
        ({"search_space": [SPACE, {"include_cl": True}]}, r"search_space\[1\]: no key"),
        ({"two_stage_search": 1}, "two_stage_search must be true or false; 1 was given"),
        ({"advanced_fastft_params": {"n_trial": 3}}, 'no key "n_trial". Nearest: "n_trials"'),
        ({"advanced_fastft_params": {"n_trials": 0}}, "n_trials must be a whole number of at least 1"),
        ({"advanced_fastft_params": {"sampler_algo": "GP"}}, 'no sampler_algo "GP". Nearest: "GPS"'),
    ],
)
def test_a_mistake_in_a_keyword_is_told(keywords, message):
    with pytest.raises(InputError, match=message):
        AutoSearch(**keywords)


def test_a_direction_other_than_the_metrics_is_refused():
    strategy = AutoSearch(SPACE, advanced_fastft_params={"direction": "minimize"})
    with pytest.raises(InputError, match="of the metric higher is better"):
        next(strategy.stages(tuning_of("Conv")))
    summary = synthetic_cnn()
    lower = Tuning(space_of(summary), summary, Goal((Objective("mse", False),), (0.0,)))
    assert next(strategy.stages(lower)).name == "auto search"
