"""Trials that end early: never the best, never where its metric is asked for, the same rows on any ranks."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from disttune.config.goal import Goal, Objective
from disttune.schedule.early_stop import StopRule, cut_short
from disttune.schedule.events import Settle
from disttune.schedule.exit_policy import ExitPolicy
from disttune.schedule.outcome import Outcome
from disttune.schedule.synthetic import additive_landscape, synthetic_space, synthetic_transformer
from disttune.strategy import Stage
from disttune.strategy.auto import Auto
from disttune.strategy.auto_mixed_precision import AutoMixedPrecision
from disttune.strategy.conservative import Conservative
from disttune.strategy.exhaustive import Exhaustive
from disttune.strategy.mse_v2 import MseV2
from disttune.strategy.random import Random
from tests.simulated import Listed, SimulatedJob, simulate, small_space

SPACE = small_space(5)
ITEMS = [SPACE[i] for i in range(20)]
AT = {item.digest: i for i, item in enumerate(ITEMS)}
EARLY = ExitPolicy("budget", max_trials=1000, early_stop=True)
FULL = replace(EARLY, early_stop=False)


def job(metrics, stages, policy=EARLY, gaps=(0.5, 0.3, 0.1, 0.02), **options):
    """Bounds come from above in these steps; every fifth candidate makes the model of the one before it."""

    def metric(item):
        at = AT[item.digest]
        return metrics[at - (at % 5 == 4)]

    def bounds(item):
        higher = options.get("higher_is_better", True)
        return tuple(metric(item) + gap if higher else metric(item) - gap for gap in gaps)

    return SimulatedJob(
        lambda: Listed(*stages),
        SPACE,
        metric,
        policy=policy,
        model=lambda item: str(AT[item.digest] - (AT[item.digest] % 5 == 4)),
        bounds=bounds,
        duration_s=lambda item, rank: 1.0 + (7 * AT[item.digest] + rank) % 5,
        **options,
    )


def goal_stage(items=ITEMS, name="goal", **options):
    return Stage(name, list(items), needs="goal", goal_stops=False, **options)


METRICS = st.lists(st.floats(0, 1).map(lambda x: round(x, 2)), min_size=20, max_size=20)
STAGES = st.lists(
    st.tuples(st.sampled_from(["goal", "metric"]), st.lists(st.integers(0, 19), min_size=1, max_size=20)),
    min_size=1,
    max_size=4,
)


@settings(max_examples=80, deadline=None)
@given(
    metrics=METRICS,
    chosen=STAGES,
    n_ranks=st.integers(1, 9),
    lost=st.dictionaries(st.integers(1, 8), st.floats(0, 30), max_size=2),
    n_blocks=st.sampled_from([0, 20]),
    higher=st.booleans(),
    goal=st.sampled_from([0.3, 0.9, 2.0, -1.0]),
)
def test_rows_and_best_are_those_of_one_rank_and_of_a_job_that_stops_nothing(
    metrics, chosen, n_ranks, lost, n_blocks, higher, goal
):
    stages = [
        Stage(str(i), [ITEMS[n] for n in numbers], needs=needs, goal_stops=False)
        for i, (needs, numbers) in enumerate(chosen)
    ]
    options = {"higher_is_better": higher, "goal": goal}
    lost = {rank: at_s for rank, at_s in lost.items() if rank < n_ranks}
    found = simulate(
        job(metrics, stages, n_blocks=n_blocks, evaluation_s=3.0, **options), n_ranks, lost, nodes=n_ranks
    )
    alone = simulate(job(metrics, stages, **options), 1)
    full = simulate(job(metrics, stages, policy=FULL, **options), 1)

    assert found.table == alone.table
    assert found.best == alone.best == full.best
    needs = {str(i): needs for i, (needs, _) in enumerate(chosen)}
    for ours, whole in zip(alone.table, full.table, strict=True):
        if ours[3] == "pruned":
            assert needs[ours[1]] == "goal"
            assert not whole[5]  # it misses the goal
        else:
            assert ours == whole
    again = simulate(job(metrics, stages, **options), n_ranks, recording=found.known)
    assert again.table == found.table


def test_a_trial_that_cannot_be_the_best_ends_early_and_says_by_which_bound():
    metrics = [0.8, 0.2, *[0.1] * 18]
    found = simulate(job(metrics, [goal_stage(ITEMS[:2])], goal=0.7), 1)

    (_, second) = [c.outcome for c in found.commands if isinstance(c, Settle)]
    assert found.n_stopped == 1
    assert (second.status, second.bounds) == ("pruned", (0.7, 0.5))
    assert [row[3] for row in found.table] == ["ok", "pruned"]


def test_what_ran_to_its_end_beside_the_best_is_cut_where_it_could_have_ended():
    metrics = [0.8, 0.2, *[0.1] * 18]
    found = simulate(job(metrics, [goal_stage(ITEMS[:2])], goal=0.7), 2)

    assert found.n_stopped == 0
    assert [row[3] for row in found.table] == ["ok", "pruned"]


def test_while_none_meets_the_goal_the_nearest_is_never_stopped():
    metrics = [0.1 + 0.04 * i for i in range(20)]
    found = simulate(job(metrics, [goal_stage()], goal=2.0), 1)
    assert found.n_stopped == 0


GOAL = Goal((Objective("top1"),), (1.0,), "absolute", 0.1)  # 0.9
RULE = StopRule(GOAL, GOAL.shortfall((0.85,)))


@pytest.mark.parametrize(
    ("bounds", "reason"),
    [
        ((0.95, 0.86, 0.84, 0.8), "stopped early: bound 0.84"),
        ((0.95, 0.86, 0.85), ""),  # a tie goes to the later one
        ((float("inf"), float("nan")), ""),
        ((), ""),
    ],
)
def test_the_first_bound_that_proves_it_counts(bounds, reason):
    cut = cut_short(Outcome("ok", (0.5,), bounds=bounds), RULE)
    assert (cut.status, cut.reason) == (("pruned", reason) if reason else ("ok", ""))


def test_a_failure_behind_the_bound_is_not_reached():
    cut = cut_short(Outcome("failed", reason="nan", bounds=(0.7,)), RULE)
    assert (cut.status, cut.reason) == ("pruned", "stopped early: bound 0.7")
    assert cut_short(Outcome("crashed", bounds=(0.7,)), RULE).status == "crashed"


def test_a_row_that_a_test_has_ended_says_so():
    cut = cut_short(Outcome("ok", (0.5,), bounds=(0.7,)), replace(RULE, risk=0.05))
    assert cut.reason == "stopped early: bound 0.7, wrong with probability 0.05 at most"


@pytest.mark.parametrize("stop_at", ["goal", "budget"])
@pytest.mark.parametrize("strategy", [Exhaustive, Random, Conservative, MseV2, Auto, AutoMixedPrecision])
def test_no_shipped_strategy_goes_another_way_when_trials_end_early(strategy, stop_at):
    summary = synthetic_transformer()
    metric = additive_landscape(4)

    def run(early_stop):
        policy = ExitPolicy(stop_at, max_trials=40, early_stop=early_stop)
        return simulate(
            SimulatedJob(
                strategy,
                synthetic_space(summary),
                metric,
                goal=0.93,
                policy=policy,
                summary=summary,
                bounds=lambda c: tuple(metric(c) + gap for gap in (0.3, 0.1, 0.03, 0.01, 0.003)),
                probe=lambda probe: len(repr(probe)) % 7 / 7,
            ),
            3,
        )

    early, full = run(True), run(False)

    assert [row[:3] for row in early.table] == [row[:3] for row in full.table]
    assert (early.best, early.finish) == (full.best, full.finish)
