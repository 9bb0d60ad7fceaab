"""autoquant: which steps it takes, what it keeps, and that the goal ends it."""

from dataclasses import replace

import pytest

from disttune.config.errors import InputError
from disttune.schedule.events import Commit, Note
from disttune.schedule.exit_policy import ExitPolicy
from disttune.schedule.simulation import SimulatedJob, simulate
from disttune.schedule.strategy_check import check_strategy
from disttune.schedule.synthetic import synthetic_cnn, synthetic_space, synthetic_transformer
from disttune.strategy.autoquant import AutoQuant
from tests.strategy.tunings import space_of

DEFAULT = 0.5
PER_TENSOR = {"Conv": {"weight": {"granularity": ["per_tensor", "per_channel"]}}}


def job_of(metric, summary=None, goal=0.99, probe=lambda probe: 0.001, max_trials=100, **options):
    summary = summary or synthetic_cnn()
    space = synthetic_space(summary) if summary != synthetic_cnn() else space_of(summary, op_types=PER_TENSOR)
    return SimulatedJob(
        lambda: AutoQuant(**options),
        space,
        metric,
        goal,
        ExitPolicy("goal", max_trials=max_trials),
        summary=summary,
        probe=probe,
    )


def rows(ended):
    return [command.trial for command in ended.commands if isinstance(command, Commit)]


def stages(ended):
    return list(dict.fromkeys(row.stage for row in rows(ended)))


def notes(ended):
    return " | ".join(command.text for command in ended.commands if isinstance(command, Note))


def outliers(ratio):
    def probe(probe):
        if probe.kind == "activation_outliers":
            return dict.fromkeys(probe.arguments["ops"], ratio)
        return 0.001

    return probe


def gains(**of_recipe):
    """A metric that only these recipes, or weight methods, raise."""

    def metric(candidate):
        recipes = dict(candidate.recipes)
        methods = {c.weight.method for c in candidate.configs().values() if c.weight}
        return DEFAULT + sum(gain for name, gain in of_recipe.items() if recipes.get(name) or name in methods)

    return metric


def test_a_default_that_meets_the_goal_is_the_end():
    ended = simulate(job_of(lambda c: 1.0))
    assert [row.stage for row in rows(ended)] == ["default"]


def test_a_step_is_kept_only_when_it_is_strictly_better_and_later_ones_stand_on_it():
    metric = gains(cross_layer_equalization=0.1, gptq=0.1, cross_layer_equalization_absorb_bias=-0.01)
    ended = simulate(job_of(metric))
    per_tensor_or_not = [r for r in rows(ended) if r.stage == "scheme"]
    assert {r.metric for r in per_tensor_or_not} == {DEFAULT}
    assert "scheme: not kept, 0.5 is no better than 0.5" in notes(ended)
    corrections = [r for r in rows(ended) if r.stage == "correction"]
    assert len(corrections) == 3
    for row in corrections:
        assert dict(row.candidate.recipes)["cross_layer_equalization"] is True
        assert "cross_layer_equalization_absorb_bias" not in dict(row.candidate.recipes)
        assert {c.weight.method for c in row.candidate.configs().values() if c.weight} == {"gptq"}
    assert "equalization: kept, 0.6 instead of 0.5" in notes(ended)


def test_the_step_that_meets_the_goal_ends_the_chain():
    job = job_of(gains(cross_layer_equalization=0.1, adaround=0.4), goal=0.95)
    ended = simulate(job)
    assert stages(ended)[-1] == "rounding"
    best = rows(ended)[ended.best]
    assert best.meets_goal
    assert dict(best.candidate.recipes) == {"cross_layer_equalization": True}


@pytest.mark.parametrize(("ratio", "tried"), [(2.0, False), (20.0, True)])
def test_smoothing_needs_outliers(ratio, tried):
    ended = simulate(job_of(gains(), synthetic_transformer(), probe=outliers(ratio)))
    assert ("smoothing" in stages(ended)) == tried
    assert f"up to {ratio}" in notes(ended)


def test_smoothing_is_tried_where_the_probe_fails():
    def probe(probe):
        raise ValueError("no feeds")

    assert "smoothing" in stages(simulate(job_of(gains(), synthetic_transformer(), probe=probe)))


def test_equalization_is_skipped_where_it_can_gain_nothing():
    ended = simulate(job_of(gains(), synthetic_transformer()))
    assert "equalization" not in stages(ended)
    assert "equalization: skipped, every weight has a scale per channel" in notes(ended)


def in_16_bits(candidate):
    return all(c.activation.dtype == "uint16" for c in candidate.configs().values() if c.quantized)


def test_activations_that_lose_too_much_bring_16_bits_into_mixed_precision():
    def metric(candidate):
        return 1.0 if in_16_bits(candidate) and candidate.quantized_ops else DEFAULT

    ended = simulate(job_of(metric))
    assert "weights of 16 bits miss the goal" in notes(ended)
    best = rows(ended)[ended.best]
    assert best.meets_goal
    assert in_16_bits(best.candidate)
    assert len(best.candidate.quantized_ops) == len(best.candidate.ops)


def test_ops_fall_back_where_mixed_precision_finds_nothing():
    ended = simulate(job_of(lambda c: DEFAULT - 0.01 * len(c.quantized_ops)))
    assert stages(ended)[-1].startswith("ops in float32")
    best = rows(ended)[ended.best]
    assert not best.meets_goal
    assert best.metric == max(row.metric for row in rows(ended))


def test_steps_can_be_left_out():
    every = ["scheme", "equalization", "smoothing", "rounding", "correction", "mixed_precision", "fallback"]
    assert stages(simulate(job_of(gains(), skip=every))) == ["default"]


def test_what_holds_for_every_strategy_holds():
    check_strategy(AutoQuant)


@pytest.mark.parametrize("ranks", [2, 1000])
def test_the_table_is_that_of_one_rank(ranks):
    job = replace(
        job_of(gains(gptq=0.1, bias_correction=0.05), synthetic_transformer(), probe=outliers(9.0)),
        duration_s=lambda item, rank: 1 + hash((str(item), rank)) % 7,
    )
    assert simulate(job, ranks, {1: 3.0}).table == simulate(job, 1).table


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"skip": ["smooth"]}, 'no step "smooth"'),
        ({"rounding": ["adaruond"]}, "adaround"),
        ({"outlier_ratio": 0}, "outlier_ratio must be a number of at least 1"),
    ],
)
def test_wrong_options_are_refused(options, text):
    with pytest.raises(InputError, match=text):
        AutoQuant(**options)
