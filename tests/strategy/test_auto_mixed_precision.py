"""auto_mixed_precision: the order of its walk, where it ends, the same on any ranks."""

import pytest

from disttune.config.errors import InputError
from disttune.schedule.events import Commit, Note
from disttune.schedule.exit_policy import ExitPolicy
from disttune.schedule.simulation import SimulatedJob, simulate
from disttune.schedule.strategy_check import check_strategy
from disttune.schedule.synthetic import synthetic_cnn, synthetic_space
from disttune.strategy.auto_mixed_precision import AutoMixedPrecision
from tests.strategy.tunings import tuning_of

N_CONVS = 12
OPS = (*(f"conv_{i}" for i in range(N_CONVS)), "classifier")
LOSS = {op: ((7 * i) % 13 + 1) / 1000 for i, op in enumerate(OPS)}  # all different


def loss_of(candidate):
    return sum(LOSS[op] for op in candidate.quantized_ops)


def job_of(goal, **options):
    cnn = synthetic_cnn(N_CONVS)
    return SimulatedJob(
        lambda: AutoMixedPrecision(**options),
        synthetic_space(cnn),
        lambda c: 1 - loss_of(c),
        goal,
        ExitPolicy("goal", max_trials=60),
        summary=cnn,
        probe=lambda p: loss_of(p.candidate),
        duration_s=lambda item, rank: 1 + len(str(item)) % 5 + rank % 3,
    )


def rows(ended):
    return [command.trial for command in ended.commands if isinstance(command, Commit)]


def in_float(trial):
    return set(OPS) - set(trial.candidate.quantized_ops)


def test_quality_gives_the_most_sensitive_groups_back_until_the_goal_is_met():
    total = sum(LOSS.values())
    ended = simulate(job_of(goal=1 - total + 0.03))
    worst = sorted(OPS, key=lambda op: -LOSS[op])
    assert in_float(rows(ended)[ended.best]) == set(worst[:3])  # 13 + 12 + 11 thousandths
    assert [len(in_float(row)) for row in rows(ended)] == [0, 1, 2, 3]


@pytest.mark.parametrize("ranks", [1, 5, 1000])
def test_speed_quantizes_the_least_sensitive_groups_as_long_as_the_goal_is_met(ranks):
    ended = simulate(job_of(goal=1 - 0.0555, objective="speed"), ranks)  # 1 + 2 + ... + 10 thousandths
    least = sorted(OPS, key=LOSS.__getitem__)
    assert set(rows(ended)[ended.best].candidate.quantized_ops) == set(least[:10])
    assert ended.table == simulate(job_of(goal=1 - 0.0555, objective="speed")).table


def test_a_baseline_with_speed_that_misses_the_goal_is_the_end():
    ended = simulate(job_of(goal=1.0, objective="speed", baseline="W8A16"))
    assert [row.stage for row in rows(ended)] == ["baseline"]
    assert any("the baseline misses the goal" in c.text for c in ended.commands if isinstance(c, Note))


def test_each_group_takes_its_best_precision():
    ended = simulate(job_of(goal=2.0, targets=["W8A16", "float"]))
    assert in_float(rows(ended)[-1]) == set(OPS) - {min(OPS, key=LOSS.__getitem__)}


@pytest.mark.parametrize(
    "strategy",
    [AutoMixedPrecision, lambda: AutoMixedPrecision("speed"), lambda: AutoMixedPrecision(targets=["W8A16"])],
    ids=["quality", "speed", "wider activations"],
)
def test_what_holds_for_every_strategy_holds(strategy):
    check_strategy(strategy, seeds=(0,))


def test_unknown_names_are_refused():
    with pytest.raises(InputError, match=r'no value "fast"'):
        AutoMixedPrecision("fast")
    with pytest.raises(InputError, match=r'no precision "W8A17"'):
        list(AutoMixedPrecision(targets=["W8A17"]).stages(tuning_of("Conv")))
