"""Latencies measured at the end of a stage: what they decide, when they run, what a resume takes over."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from disttune.schedule.events import Assign, Commit, Finish, Note
from disttune.schedule.exit_policy import ExitPolicy
from disttune.schedule.latency_window import KIND
from disttune.strategy.stage import Probe, Stage
from tests.simulated import Listed, SimulatedJob, simulate, small_space

SPACE = small_space(4)
BUDGET = ExitPolicy("budget", max_trials=100)


def metric(candidate):
    return random.Random(candidate.digest).random()


def latency(candidate):
    return random.Random(f"latency {candidate.digest}").uniform(0.2, 1.5)


def job(*stages, **changes):
    stages = stages or (Stage("all", list(SPACE)),)
    facts = {
        "goal": 0.5, "policy": BUDGET, "objective": "latency", "latency": latency,
        "size_bytes": lambda c: 100 + len(c.quantized_ops),
    }  # fmt: skip
    return SimulatedJob(lambda: Listed(*stages), SPACE, metric, **(facts | changes))


def meeting(candidates, goal=0.5):
    return [c for c in candidates if metric(c) >= goal]


def measured(simulation):
    """Candidates whose latency was begun to be measured, in order."""
    items = [c.item for c in simulation.commands if isinstance(c, Assign)]
    return [i.candidate for i in items if isinstance(i, Probe) and i.kind == KIND]


@pytest.mark.parametrize("ranks", [1, 2, 7, 64])
def test_the_fastest_of_those_that_meet_the_goal_is_best(ranks):
    simulation = simulate(job(), ranks, nodes=2)

    fastest = min(meeting(SPACE), key=latency)
    assert list(SPACE)[simulation.best] == fastest
    assert measured(simulation) == meeting(SPACE)


def test_weights_mix_latency_and_size():
    weights = {"latency": 0.5, "size": 2.0}
    simulation = simulate(job(objective=weights), 3)

    def cost(candidate):
        return 0.5 * latency(candidate) + 2.0 * (100 + len(candidate.quantized_ops)) / 1000

    assert list(SPACE)[simulation.best] == min(meeting(SPACE), key=cost)


def test_a_latency_is_measured_alone_after_all_trials_of_its_stage():
    simulation = simulate(job(duration_s=lambda item, rank: 1 + rank / 10), 8, nodes=1)

    running, n_at_the_same_time = set(), []
    committed = 0
    for command in simulation.commands:
        committed += isinstance(command, Commit)
        if isinstance(command, Assign) and isinstance(command.item, Probe):
            running.add(command.item.candidate.digest)
            n_at_the_same_time.append(len(running))
            assert command.alone
            assert committed == SPACE.size
        if isinstance(command, Note):
            running.pop()
    assert set(n_at_the_same_time) == {1}


def test_nothing_is_measured_where_nothing_asks_for_it():
    assert measured(simulate(job(objective="size"), 3)) == []


def test_a_stage_that_a_budget_ends_is_measured_before_the_end():
    simulation = simulate(job(policy=ExitPolicy("budget", max_trials=7)), 16)

    tried = list(SPACE)[:7]
    assert simulation.finish == Finish("goal_met", "max_trials")
    assert measured(simulation) == meeting(tried)
    assert list(SPACE)[simulation.best] == min(meeting(tried), key=latency)


def test_the_next_stage_sees_the_latencies_of_the_one_before():
    strategy = Listed(Stage("one", list(SPACE)[:5]), Stage("two", list(SPACE)[4:9]))
    simulate(_with(strategy), 3)

    one, two = strategy.results
    for row in (*one.trials, *two.trials):
        expected = latency(row.candidate) if metric(row.candidate) >= 0.5 else None
        assert (row.latency.ratio if row.latency else None) == expected
    assert two.trials[0].duplicate_of == 4


def _with(strategy):
    return SimulatedJob(lambda: strategy, SPACE, metric, 0.5, BUDGET, objective="latency", latency=latency)


def test_a_latency_that_cannot_be_measured_is_behind_all_that_were():
    slowest = max(meeting(SPACE), key=latency)

    def failing(candidate):
        if candidate != slowest:
            raise RuntimeError("no feeds")
        return latency(candidate)

    simulation = simulate(job(latency=failing), 2)

    assert list(SPACE)[simulation.best] == slowest
    notes = [c.text for c in simulation.commands if isinstance(c, Note)]
    assert sum("could not be measured: no feeds" in text for text in notes) == len(meeting(SPACE)) - 1


def test_probes_at_most_bound_the_latencies_too():
    policy = ExitPolicy("budget", max_trials=100, max_probes=2)
    simulation = simulate(job(policy=policy), 2)

    first_two = meeting(SPACE)[:2]
    assert measured(simulation) == first_two
    assert list(SPACE)[simulation.best] == min(first_two, key=latency)


def test_patience_is_counted_at_the_end_of_a_stage_where_latency_decides():
    stages = [Stage(str(i), list(SPACE)[4 * i : 4 * i + 4]) for i in range(4)]
    simulation = simulate(job(*stages, policy=ExitPolicy("budget", max_trials=100, patience=4)), 3)

    rows = list(SPACE)
    for n in (4, 8, 12, 16):
        best = min(meeting(rows[:n]), key=latency, default=None)
        if best is not None and n - 1 - rows.index(best) >= 4:
            break
    assert len(simulation.table) == n
    assert simulation.finish.stop_reason == ("patience" if n < 16 else "strategy")


@given(cut_s=st.floats(0.0, 30.0), ranks=st.integers(1, 9), resumed=st.integers(1, 9))
def test_a_resumed_job_measures_no_latency_twice(cut_s, ranks, resumed):
    whole = simulate(job(), 1)
    cut = simulate(job(), ranks, until_s=cut_s)
    known = cut.known
    # the clock says something else by now: what is journaled holds
    again = simulate(job(latency=lambda c: latency(c) if c.digest not in known.latencies else 0.0), resumed,
                     recording=known)  # fmt: skip

    assert (again.table, again.best) == (whole.table, whole.best)
    assert {c.digest for c in measured(again)} == {c.digest for c in meeting(SPACE)} - set(
        cut.known.latencies
    )


@given(
    seed=st.integers(0, 10**6),
    ranks=st.integers(2, 30),
    deaths=st.dictionaries(st.integers(1, 29), st.floats(0.0, 20.0), max_size=4),
)
def test_lost_ranks_change_nothing(seed, ranks, deaths):
    def duration_s(item, rank):
        digest = item.digest if not isinstance(item, Probe) else item.candidate.digest
        return random.Random(f"{seed}{digest}{rank}").uniform(0.1, 3)

    lost = {rank: at_s for rank, at_s in deaths.items() if rank < ranks}
    alone = simulate(job(), 1)
    found = simulate(job(duration_s=duration_s), ranks, lost, nodes=3)

    assert (found.table, found.best) == (alone.table, alone.best)


def test_a_timeout_in_the_window_keeps_what_is_measured():
    n = len(meeting(SPACE))
    simulation = simulate(job(policy=ExitPolicy("budget", timeout_s=16 + n - 1.5)), 1)

    assert simulation.finish == Finish("goal_met", "timeout")
    assert len(simulation.table) == 16
    assert list(SPACE)[simulation.best] == min(meeting(SPACE)[: n - 2], key=latency)
