"""Start stages: settings of the whole model that are tried first, the best being the default from then on."""

import pytest

from disttune.config.schemes import FLOAT32, OpConfig, Scheme
from disttune.schedule.events import Note, OpenStage
from disttune.schedule.exit_policy import ExitPolicy
from disttune.schedule.simulation import SimulatedJob, simulate
from disttune.schedule.strategy_check import check_strategy
from disttune.space.candidate import Candidate
from disttune.space.space import Space
from disttune.strategy.basic import Basic
from disttune.strategy.registry import make_strategy
from disttune.strategy.smooth_quant_start import RECIPE

NO_GOAL = ExitPolicy("budget", max_trials=60)


def weight(method="rtn", group_size=32, symmetric=False, dtype="uint4"):
    return OpConfig("weight_only", Scheme(dtype, symmetric, "per_group", group_size, method))


ALL = tuple(weight(m, g, s) for m in ("rtn", "gptq", "awq") for g in (128, 32) for s in (True, False))


def weight_only_space(options=ALL):
    ops = {"first": "MatMul", "second": "Gemm", "last": "MatMul"}
    return Space(dict.fromkeys(ops, options), ops)


def job(metric, space=None, strategy=Basic, policy=NO_GOAL, **changes):
    return SimulatedJob(strategy, space or weight_only_space(), metric, goal=2.0, policy=policy, **changes)


def rows(simulation, stage):
    return [row for row in simulation.table if row[1] == stage]


def trials(simulation):
    return [c.trial for c in simulation.commands if type(c).__name__ == "Commit"]


def candidates(simulation, stage):
    return [t.candidate for t in trials(simulation) if t.stage == stage]


def uniform(config, last=None):
    return {"first": config, "second": config, "last": config if last is None else last}


EXPECTED = [
    uniform(weight("rtn")),
    uniform(weight("gptq")),
    uniform(weight("gptq"), last=FLOAT32),
    uniform(weight("gptq", 128)),
    uniform(weight("awq")),
]


def test_the_five_named_settings_come_first_in_order():
    simulation = simulate(job(lambda candidate: 0.5), 3)

    found = [c.configs() for c in candidates(simulation, "weight-only algorithms")]
    assert found == EXPECTED
    assert trials(simulation)[0].stage == "weight-only algorithms"


@pytest.mark.parametrize("best", range(5))
@pytest.mark.parametrize("name", ["basic", "mse", "mse_v2", "hawq_v2", "auto"])
def test_the_best_setting_is_the_default_of_all_that_follows(name, best):
    def metric(candidate):
        return 0.9 if candidate.configs() == EXPECTED[best] else 0.5 - 0.01 * len(candidate.exceptions)

    simulation = simulate(job(metric, strategy=lambda: make_strategy(name, {}, None)), 2)

    (default,) = [t for t in trials(simulation) if t.stage == "default"]
    assert default.candidate.configs() == EXPECTED[best]
    assert default.duplicate_of == best  # nothing is measured twice
    if name == "basic":
        fallback = candidates(simulation, "ops in float32 one by one")
        quantized = set(default.candidate.quantized_ops)
        assert [set(c.quantized_ops) for c in fallback] == [
            quantized - {op} for op in ("last", "second", "first") if op in quantized
        ]


def test_a_setting_that_the_options_do_not_hold_is_left_out_and_told():
    space = weight_only_space((weight("gptq"), weight("awq"), weight("rtn", symmetric=True)))
    simulation = simulate(job(lambda candidate: 0.5, space), 2)

    found = [c.configs() for c in candidates(simulation, "weight-only algorithms")]
    assert found == [EXPECTED[1], EXPECTED[2], EXPECTED[4]]
    notes = [c.text for c in simulation.commands if isinstance(c, Note)]
    assert (
        "weight-only algorithms: not among the job's options: rtn with groups of 32; gptq with groups of 128"
        in notes
    )


def test_with_one_algorithm_there_is_nothing_to_choose():
    space = weight_only_space(tuple(weight("gptq", g) for g in (32, 128)))
    simulation = simulate(job(lambda candidate: 0.5, space), 2)

    assert candidates(simulation, "weight-only algorithms") == []
    notes = [c.text for c in simulation.commands if isinstance(c, Note)]
    assert "weight-only algorithms: skipped, the job leaves one only" in notes


def test_a_met_goal_ends_the_start():
    policy = ExitPolicy("goal", max_trials=60)
    met = job(lambda c: 3.0 if c.config_of("first") == weight("gptq") else 0.5, policy=policy)
    simulation = simulate(met, 5)

    assert len(simulation.table) == 2
    assert simulation.finish.stop_reason == "goal"
    assert len([c for c in simulation.commands if isinstance(c, OpenStage)]) == 1


def test_static_jobs_have_no_such_stage():
    check_strategy(Basic, ranks=(2,), seeds=(0,), max_trials=8)
    static = OpConfig("static", Scheme("int8", True, "per_channel"), Scheme("uint8", False))
    space = Space({"a": (static, weight())}, {"a": "MatMul"})
    assert candidates(simulate(job(lambda c: 0.5, space), 1), "weight-only algorithms") == []


def smoothed_space(alphas=(0.3, 0.5, "auto")):
    static = OpConfig("static", Scheme("int8", True, "per_channel"), Scheme("uint8", False))
    ops = {"a": "MatMul", "b": "Gemm", "c": "MatMul"}
    given = {} if alphas[0] == 0.5 else {"smooth_quant_alpha": alphas[0]}
    return Space(
        dict.fromkeys(ops, (static,)), ops, recipes={"smooth_quant": True, **given},
        alternatives={"smooth_quant_alpha": alphas},
        presets={"two": Candidate.of({"a": static, "b": static, "c": FLOAT32}, {RECIPE: True, **given})},
    )  # fmt: skip


def alpha_of(candidate):
    return dict(candidate.recipes).get("smooth_quant_alpha", 0.5)


@pytest.mark.parametrize("alphas", [(0.3, 0.5, "auto"), (0.5, 0.7), ("auto", 0.0)])
@pytest.mark.parametrize("name", ["basic", "mse", "mse_v2", "hawq_v2", "auto"])
def test_each_alpha_is_tried_with_the_default_and_the_best_is_kept(name, alphas):
    for best in alphas:
        simulation = simulate(
            job(
                lambda c, best=best: 0.6 - 0.1 * (alpha_of(c) != best),
                smoothed_space(alphas),
                lambda: make_strategy(name, {}, None),
            ),
            2,
        )

        found = trials(simulation)
        assert [(t.stage, alpha_of(t.candidate)) for t in found[: len(alphas)]] == [
            ("SmoothQuant alpha", alpha) for alpha in alphas
        ]
        assert {alpha_of(t.candidate) for t in found[len(alphas) :]} == {best}
        assert all(dict(t.candidate.recipes)["smooth_quant"] for t in found)


@pytest.mark.parametrize("alphas", [(0.3,), (0.5,)])
def test_one_alpha_is_no_choice(alphas):
    simulation = simulate(job(lambda c: 0.5, smoothed_space(alphas)), 2)

    assert candidates(simulation, "SmoothQuant alpha") == []
    assert {alpha_of(t.candidate) for t in trials(simulation)} == {alphas[0]}


def test_without_smooth_quant_its_alphas_are_not_tried():
    space = smoothed_space()
    off = type(space)(space.options, space.types, alternatives=space.alternatives)

    assert candidates(simulate(job(lambda c: 0.5, off), 2), "SmoothQuant alpha") == []
