"""A second run of what takes long: whom it goes to, whose answer counts, and that no row depends on it."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from disttune.schedule.events import (
    Assign,
    Cancel,
    Commit,
    Evaluate,
    ModelBuilt,
    Notice,
    TaskDone,
    TaskFailed,
    Tick,
    WorkerJoined,
    WorkerLost,
)
from disttune.schedule.exit_policy import ExitPolicy
from disttune.schedule.outcome import Outcome
from disttune.strategy import Stage
from tests.simulated import Listed, SimulatedJob, landscape, simulate, small_space

SPACE = small_space(6)
ITEMS = [SPACE[i] for i in range(24)]
SLOW = 3  # ten times as slow as the other three


def job(items=ITEMS, **options):
    stages = [Stage("all", list(items), goal_stops=False)]
    defaults = {
        "policy": ExitPolicy("budget", max_trials=1000),
        "duration_s": lambda item, rank: 10.0 if rank == SLOW else 1.0,
    }
    return SimulatedJob(lambda: Listed(*stages), SPACE, landscape(1), **(defaults | options))


def ok(value=0.5, seconds=1.0, model="m"):
    return Outcome("ok", (value,), model_digest=model, size_bytes=1, n_quantized=1, seconds=seconds)


class Two:
    """Two ranks; rank 1 has taken ten times as long as rank 0, and has begun the stage's last trial."""

    def __init__(self):
        stages = [Stage("all", ITEMS[:4]), Stage("then", ITEMS[4:6])]
        policy = ExitPolicy("budget", max_trials=1000)
        self.scheduler = SimulatedJob(lambda: Listed(*stages), SPACE, landscape(1), policy=policy).scheduler()
        self.running = {}
        self.now_s = 0.0
        for rank in (0, 1):
            self.gets(WorkerJoined(rank, "node", 0.0))
        self.answers(0, 1.0)
        self.answers(1, 10.0, seconds=10.0)

    def gets(self, event):
        commands = self.scheduler.handle(event)
        self.scheduler.check_invariants()
        self.running |= {c.rank: c for c in commands if isinstance(c, Assign)}
        return commands

    def answers(self, rank, at_s, value=0.5, seconds=1.0, assign=None):
        assign = assign or self.running[rank]
        outcome = replace(ok(value, seconds, f"model {assign.task}"), rank=rank)
        return self.gets(TaskDone(rank, assign.assignment, outcome, at_s))


def test_a_slow_rank_is_helped_and_the_stage_ends_sooner():
    found = simulate(job(), 4)

    n_runs = Counter(c.task for c in found.commands if isinstance(c, Assign))
    assert max(n_runs.values()) == 2
    assert any(isinstance(c, Cancel) and c.rank == SLOW for c in found.commands)
    assert found.time_s < 20.0  # its second trial began at 10 s, or would have ended at 20
    assert found.table == simulate(job(), 1).table


def test_ranks_of_one_pace_run_nothing_twice():
    found = simulate(job(duration_s=lambda item, rank: 1.0), 5)
    assert len([c for c in found.commands if isinstance(c, Assign)]) == len(ITEMS)


@pytest.fixture
def two() -> Two:
    """Trial 3 runs on rank 1 from 10 s on; when rank 0 has ended trial 2 it runs 3 as well."""
    two = Two()
    assert (two.running[0].task, two.running[1].task) == (2, 3)
    commands = two.answers(0, 10.5)
    assert [(c.rank, c.task, c.attempt) for c in commands if isinstance(c, Assign)] == [(0, 3, 2)]
    return two


@pytest.mark.parametrize("first", [0, 1])
def test_the_first_answer_counts_and_the_other_run_is_cancelled(two: Two, first: int):
    other = two.running[1 - first]
    commands = two.answers(first, 11.0, value=0.7)

    assert Cancel(1 - first, other.assignment) in commands
    assert [(c.trial.number, c.trial.values) for c in commands if isinstance(c, Commit)] == [(3, (0.7,))]


@pytest.mark.parametrize(("value", "n_told"), [(0.7, 0), (0.8, 1)])
def test_answers_that_differ_are_told_as_an_evaluation_that_is_not_deterministic(two: Two, value, n_told):
    late = two.running[1]
    two.answers(0, 11.0, value=0.7)

    commands = two.answers(1, 11.5, value, assign=late)

    told = [c.text for c in commands if isinstance(c, Notice)]
    assert len(told) == len(commands) == n_told
    for text in told:
        assert text.startswith("trial 3 ran twice: (0.7,) on rank 0, which counts, and (0.8,) on rank 1.")


def test_with_a_lost_rank_the_other_run_goes_on(two: Two):
    assert two.gets(WorkerLost(1, 11.0)) == []
    assert [c.trial.number for c in two.answers(0, 12.0) if isinstance(c, Commit)] == [3]


def test_when_both_ranks_are_lost_the_trial_waits_for_another(two: Two):
    two.gets(WorkerLost(0, 11.0))
    two.gets(WorkerLost(1, 11.0))
    commands = two.gets(WorkerJoined(2, "node", 12.0))
    assert [(c.rank, c.task) for c in commands if isinstance(c, Assign)] == [(2, 3)]


def test_crashes_of_both_runs_count_as_two(two: Two):
    crashed = Outcome("crashed", rank=1)
    assert two.gets(TaskFailed(1, two.running[1].assignment, crashed, 11.0)) == []
    commands = two.gets(TaskFailed(0, two.running[0].assignment, replace(crashed, rank=0), 12.0))
    assert [c.trial.status for c in commands if isinstance(c, Commit)] == ["crashed"]


def test_a_run_out_of_time_leaves_it_to_the_other(two: Two):
    assert two.gets(TaskFailed(1, two.running[1].assignment, Outcome("timeout", rank=1), 11.0)) == []
    assert [c.trial.status for c in two.answers(0, 12.0) if isinstance(c, Commit)] == ["ok"]


def test_both_may_build_before_one_has_evaluated(two: Two):
    for rank in (0, 1):
        built = ModelBuilt(rank, two.running[rank].assignment, "model 3", 11.0)
        assert two.gets(built) == [Evaluate(rank, built.assignment)]


def test_what_takes_several_times_as_long_as_its_kind_is_run_again_whatever_its_rank():
    scheduler = job(ITEMS[:3]).scheduler()
    scheduler.handle(WorkerJoined(0, "node", 0.0))
    scheduler.handle(WorkerJoined(1, "node", 0.0))  # stays with trial 1
    for n, assignment in enumerate((0, 2)):  # rank 0 does trials 0 and 2
        scheduler.handle(TaskDone(0, assignment, ok(model=str(n)), 1.0 + n))

    given = [[c.task for c in scheduler.handle(Tick(s)) if isinstance(c, Assign)] for s in (2.9, 3.1)]

    assert given == [[], [1]]


@settings(max_examples=60, deadline=None)
@given(
    paces=st.lists(st.sampled_from([0.5, 1.0, 3.0, 20.0]), min_size=2, max_size=9),
    lost=st.dictionaries(st.integers(1, 8), st.floats(0.0, 30.0), max_size=2),
    goal=st.sampled_from([0.9, 2.0]),
    n_items=st.integers(1, 24),
    nodes=st.integers(1, 3),
)
def test_second_runs_change_no_row(paces, lost, goal, n_items, nodes):
    def tried(seconds_of_rank):
        def stages():
            return Listed(Stage("some", ITEMS[:n_items]), Stage("rest", iter(ITEMS[n_items:])))

        def duration_s(item, rank):
            return seconds_of_rank(rank) * (1 + int(item.digest[0], 16) / 8)

        return SimulatedJob(stages, SPACE, landscape(2), goal=goal, duration_s=duration_s)

    lost = {rank: at_s for rank, at_s in lost.items() if rank < len(paces)}
    found = simulate(tried(lambda rank: paces[rank]), len(paces), lost, nodes=nodes)
    assert found.table == simulate(tried(lambda rank: 1.0), 1).table
