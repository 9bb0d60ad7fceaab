"""Weights alone get 8 bits before ops go back to float. Oracle: the least power of two of ops that do."""

from dataclasses import replace

import pytest

from disttune.config.schemes import OpConfig, Scheme
from disttune.schedule.events import Commit, Note
from disttune.schedule.exit_policy import ExitPolicy
from disttune.schedule.simulation import SimulatedJob, Simulation, simulate
from disttune.space.candidate import Candidate
from disttune.space.space import Space
from disttune.strategy.auto import Auto
from disttune.strategy.basic import Basic
from disttune.strategy.trial import Trial

OPS = tuple(f"fc_{i}" for i in range(6))
EIGHT = OpConfig("weight_only", Scheme("int8", True, "per_group", 32, "rtn"))
FOUR = tuple(
    OpConfig("weight_only", Scheme("uint4", False, "per_group", size, method))
    for method in ("rtn", "hqq", "k_quant")
    for size in (32, 64, 128)
)
SPACE = Space(dict.fromkeys(OPS, (*FOUR, EIGHT)), dict.fromkeys(OPS, "MatMul"))
WORST_FIRST = ("fc_3", "fc_0", "fc_5", "fc_1", "fc_2", "fc_4")


def loss(candidate: Candidate) -> float:
    """Of ops in 4 bits; 8 bits lose a hundredth of it."""
    sizes = {op: 0.1 / 2**rank for rank, op in enumerate(WORST_FIRST)}
    shares = {"uint4": 1.0, "int8": 0.01}
    weights = ((op, candidate.config_of(op).weight) for op in OPS)
    return sum(sizes[op] * shares[weight.dtype] for op, weight in weights if weight)


def job(goal: float, strategy=Basic, space: Space = SPACE) -> SimulatedJob:
    return SimulatedJob(
        strategy,
        space,
        lambda candidate: 1 - loss(candidate),
        goal,
        ExitPolicy("goal", max_trials=24),
        probe=lambda probe: loss(probe.candidate),
    )


@pytest.mark.parametrize("strategy", [Basic, lambda: Auto(presets=False)], ids=["basic", "auto"])
@pytest.mark.parametrize(("goal", "n_wide"), [(0.89, 1), (0.94, 2), (0.98, 4), (0.998, 6)])
def test_as_few_weights_as_suffice_get_8_bits_and_none_goes_back_to_float(strategy, goal, n_wide):
    best = rows(simulate(job(goal, strategy)))[-1].candidate
    wide = [op for op in OPS if best.config_of(op) == EIGHT]
    assert sorted(wide) == sorted(WORST_FIRST[:n_wide])
    assert len(best.quantized_ops) == len(OPS)


def test_where_8_bits_do_not_suffice_ops_go_back_to_float_from_there():
    found = rows(simulate(job(0.9995)))
    fallback = [trial.candidate for trial in found if "in float32" in trial.stage]
    assert fallback
    assert all(c.config_of(op) != FOUR[0] for c in fallback for op in OPS)


def test_without_such_an_option_it_says_so():
    ended = simulate(job(0.94, space=replace(SPACE, options=dict.fromkeys(OPS, FOUR))))
    notes = [command.text for command in ended.commands if isinstance(command, Note)]
    assert "weights in 8 bits: skipped, the job lists no such option" in notes
    assert not any("8 bits" in trial.stage for trial in rows(ended))


def test_the_table_is_the_same_on_any_number_of_workers():
    assert simulate(job(0.98), 7).table == simulate(job(0.98), 1).table


def rows(ended: Simulation) -> list[Trial]:
    return [command.trial for command in ended.commands if isinstance(command, Commit)]
