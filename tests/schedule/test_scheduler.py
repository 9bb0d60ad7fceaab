"""The scheduler: what runs where, what is committed, and that the table never depends on the ranks."""

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from disttune.config.errors import UserCodeError
from disttune.schedule.events import (
    Assign,
    Commit,
    Evaluate,
    ModelBuilt,
    Skip,
    TaskDone,
    TaskFailed,
    WorkerJoined,
    WorkerLost,
)
from disttune.schedule.exit_policy import ExitPolicy
from disttune.schedule.known_outcomes import KnownOutcomes
from disttune.schedule.outcome import Outcome
from disttune.strategy import Probe, Stage
from disttune.strategy.exhaustive import Exhaustive
from disttune.strategy.random import Random
from tests.simulated import Listed, SimulatedJob, landscape, simulate, small_space

SPACE = small_space(4)
A, B, C, D = (SPACE[i] for i in range(4))


def job(*candidates, metric=lambda c: 0.5, **options):
    stage = Stage("all", list(candidates))
    return SimulatedJob(lambda: Listed(stage), SPACE, metric, **options)


def ok(value, model="m"):
    return Outcome("ok", (value,), model_digest=model, size_bytes=1, n_quantized=1)


def assigned(commands):
    return [(c.rank, c.task, c.attempt, c.alone) for c in commands if isinstance(c, Assign)]


def started(n_workers, *candidates, nodes=1, **options):
    """A scheduler with workers that have been given the first tasks, and those assignments."""
    scheduler = job(*candidates, policy=ExitPolicy("budget"), **options).scheduler()
    commands = []
    for rank in range(n_workers):
        commands += scheduler.handle(WorkerJoined(rank, f"node-{rank % nodes}", 0.0))
    return scheduler, {c.rank: c for c in commands if isinstance(c, Assign)}


def test_workers_get_trials_in_the_order_of_proposal():
    _, given_out = started(3, A, B, C, D)
    assert [(a.rank, a.task) for a in given_out.values()] == [(0, 0), (1, 1), (2, 2)]


def test_results_are_committed_in_trial_order_whatever_order_they_arrive_in():
    scheduler, given_out = started(2, A, B)
    late = scheduler.handle(TaskDone(1, given_out[1].assignment, ok(0.2, "b"), 1.0))
    assert not [c for c in late if isinstance(c, Commit)]
    both = scheduler.handle(TaskDone(0, given_out[0].assignment, ok(0.1, "a"), 2.0))
    assert [c.trial.number for c in both if isinstance(c, Commit)] == [0, 1]


def test_lost_rank_gives_its_trial_to_another_once():
    scheduler, _ = started(3, A, B)
    assert assigned(scheduler.handle(WorkerLost(1, 5.0))) == [(2, 1, 2, False)]


def test_an_answer_of_a_lost_rank_is_ignored():
    scheduler, given_out = started(2, A, B)
    scheduler.handle(WorkerLost(1, 5.0))
    assert scheduler.handle(TaskDone(1, given_out[1].assignment, ok(0.1), 6.0)) == []


def test_a_crash_is_tried_again_on_another_rank_and_then_stands():
    scheduler, given_out = started(2, A)
    again = scheduler.handle(TaskFailed(0, given_out[0].assignment, Outcome("crashed"), 1.0))
    assert assigned(again) == [(1, 0, 2, False)]
    end = scheduler.handle(TaskFailed(1, again[-1].assignment, Outcome("crashed", reason="SIGSEGV"), 2.0))
    assert [(c.trial.status, c.trial.reason) for c in end if isinstance(c, Commit)] == [
        ("crashed", "SIGSEGV")
    ]


def test_a_timed_out_trial_runs_once_more_alone_on_its_node():
    scheduler, given_out = started(2, A, B, C)
    assert assigned(scheduler.handle(TaskFailed(0, given_out[0].assignment, Outcome("timeout"), 1.0))) == []
    alone = scheduler.handle(TaskDone(1, given_out[1].assignment, ok(0.1, "b"), 2.0))
    assert assigned(alone) == [(0, 0, 2, True)]
    assigns = [c for c in alone if isinstance(c, Assign)]
    end = scheduler.handle(TaskFailed(0, assigns[0].assignment, Outcome("timeout"), 3.0))
    assert [c.trial.status for c in end if isinstance(c, Commit)] == ["timeout", "ok"]
    assert assigned(end) == [(1, 2, 1, False)] or assigned(end) == [(0, 2, 1, False)]


def test_a_timed_out_trial_of_a_node_with_one_rank_stands_at_once():
    scheduler, given_out = started(1, A)
    end = scheduler.handle(TaskFailed(0, given_out[0].assignment, Outcome("timeout"), 1.0))
    assert [c.trial.status for c in end if isinstance(c, Commit)] == ["timeout"]


def test_a_model_already_measured_is_not_evaluated_again():
    scheduler, given_out = started(1, A, B)
    scheduler.handle(ModelBuilt(0, given_out[0].assignment, "same", 0.5))
    commands = scheduler.handle(TaskDone(0, given_out[0].assignment, ok(0.7, "same"), 1.0))
    second = next(c for c in commands if isinstance(c, Assign))
    answer = scheduler.handle(ModelBuilt(0, second.assignment, "same", 1.5))
    assert isinstance(answer[0], Skip)
    rows = [c.trial for c in answer if isinstance(c, Commit)]
    assert [(r.duplicate_of, r.metric, r.counts) for r in rows] == [(0, 0.7, False)]


def test_a_model_nobody_has_measured_is_evaluated():
    scheduler, given_out = started(1, A)
    assert scheduler.handle(ModelBuilt(0, given_out[0].assignment, "new", 0.5)) == [
        Evaluate(0, given_out[0].assignment)
    ]


def test_probes_with_the_greatest_cost_start_first_and_come_back_in_order():
    probes = [Probe("p", {"value": i}, cost=cost) for i, cost in enumerate([1.0, 5.0, 3.0])]
    strategy = Listed(Stage("probes", probes))
    simulation = simulate(SimulatedJob(lambda: strategy, SPACE, lambda c: 0.0), ranks=1)
    assert [c.item.arguments["value"] for c in simulation.commands if isinstance(c, Assign)] == [1, 2, 0]
    assert strategy.results[0].probes == (0, 1, 2)


def test_a_repeat_counts_nothing_and_refers_to_the_first():
    simulation = simulate(job(A, B, A, policy=ExitPolicy("budget", max_trials=2)))
    assert [(r[0], r[7]) for r in simulation.table] == [(0, None), (1, None)]
    simulation = simulate(job(A, A, B, policy=ExitPolicy("budget", max_trials=2)))
    assert [(r[0], r[7]) for r in simulation.table] == [(0, None), (1, 0), (2, None)]


def test_repeats_in_a_row_end_the_stage_and_the_next_one_runs():
    first, second = Stage("a", iter([A] + [A] * 50)), Stage("b", [B])
    policy = ExitPolicy("budget", max_repeats=10)
    simulation = simulate(
        SimulatedJob(lambda: Listed(first, second), SPACE, lambda c: 0.5, policy=policy), ranks=3
    )
    assert [r[1] for r in simulation.table] == ["a"] * 11 + ["b"]


def test_a_strategy_that_yields_no_stage_is_named():
    strategy = Listed("nonsense")
    with pytest.raises(UserCodeError, match=r"Listed.*must yield Stage"):
        simulate(SimulatedJob(lambda: strategy, SPACE, lambda c: 0.5))


def test_a_strategy_that_raises_is_named_with_file_and_line():
    class Broken:
        def stages(self, tuning):
            yield Stage("a", [A])
            raise ValueError("no more ideas")

    with pytest.raises(
        UserCodeError, match=r"Broken raised ValueError: no more ideas \(.*test_scheduler.py, line \d+\)"
    ):
        simulate(SimulatedJob(Broken, SPACE, lambda c: 0.5))


def test_a_strategy_that_only_repeats_itself_comes_to_an_end():
    class Stubborn:
        def stages(self, tuning):
            while True:
                yield Stage("again", [A])

    simulation = simulate(SimulatedJob(Stubborn, SPACE, lambda c: 0.5))
    assert simulation.finish.stop_reason == "space"


def varied(seed, **options):
    """A job with failures, crashes, equal models and uneven durations, all fixed by the seed."""

    def raised(candidate):
        if random.Random(f"{seed}f{candidate.digest}").random() < 0.1:
            raise ValueError("evaluation failed")
        return landscape(seed)(candidate)

    defaults = {
        "policy": ExitPolicy("goal", max_trials=40),
        "goal": 0.97,
        "metric": raised,
        "crash": lambda c: random.Random(f"{seed}c{c.digest}").random() < 0.05,
        "model": lambda c: f"model-{random.Random(f'{seed}m{c.digest}').randrange(200)}",
        "duration_s": lambda item, rank: random.Random(f"{seed}{rank}{getattr(item, 'digest', '')}").uniform(
            0.1, 3
        ),
        "seed": seed,
    }
    return SimulatedJob(Random, small_space(7), **(defaults | options))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), ranks=st.integers(2, 64), goal=st.sampled_from([0.9, 0.97, 2.0]))
def test_the_table_is_the_same_for_any_number_of_ranks(seed, ranks, goal):
    # equal models have equal metrics: a model's metric is that of its digest
    tried = varied(seed, goal=goal)
    tried = replace(tried, metric=lambda c: random.Random(tried.model(c)).random(), crash=lambda c: False)
    assert simulate(tried, ranks).table == simulate(tried, 1).table


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), ranks=st.integers(4, 64), data=st.data())
def test_lost_ranks_do_not_change_the_trial_table(seed, ranks, data):
    lost = {
        r: data.draw(st.floats(0.1, 20)) for r in data.draw(st.sets(st.integers(1, ranks - 1), max_size=2))
    }
    tried = varied(seed, model=lambda c: c.digest, crash=lambda c: False)
    assert simulate(tried, ranks, lost, nodes=3).table == simulate(tried, 1).table


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    ranks=st.integers(1, 16),
    stop_s=st.floats(0, 30),
    ranks_after=st.integers(1, 16),
)
def test_a_resumed_job_ends_like_an_undisturbed_one(seed, ranks, stop_s, ranks_after):
    tried = varied(seed, model=lambda c: c.digest)
    cut = simulate(tried, ranks, until_s=stop_s)
    resumed = simulate(tried, ranks_after, recording=cut.known)
    assert resumed.table == simulate(tried, 1).table
    assert resumed.finish == simulate(tried, 1).finish


def test_a_finished_job_is_replayed_without_running_anything():
    tried = varied(3, model=lambda c: c.digest)
    whole = simulate(tried, 2)
    again = simulate(tried, 2, recording=whole.known)
    assert (again.table, again.n_evaluations) == (whole.table, 0)


def test_when_the_strategy_has_changed_the_journal_is_followed_and_it_is_said_once():
    proposals = {(0, 0): C, (0, 1): D}
    simulation = simulate(
        job(A, B, policy=ExitPolicy("budget")), recording=KnownOutcomes(proposals=proposals)
    )
    assert [r[2] for r in simulation.table] == [C.digest, D.digest]
    assert len([c for c in simulation.commands if type(c).__name__ == "Notice"]) == 1


def test_an_interrupt_hands_out_nothing_more_and_the_rest_can_be_resumed():
    tried = varied(5, goal=2.0, model=lambda c: c.digest)
    cut = simulate(tried, 4, interrupt_at_s=5.0)
    assert (cut.finish.status, cut.finish.stop_reason) == ("interrupted", "signal")
    assert simulate(tried, 2, recording=cut.known).table == simulate(tried, 1).table


@pytest.mark.parametrize("ranks", [2, 7, 1000])
def test_exhaustive_search_stops_at_the_same_trial_on_any_number_of_ranks(ranks):
    tried = SimulatedJob(Exhaustive, small_space(6), landscape(1, ["conv_2"]), goal=0.88)
    assert simulate(tried, ranks).table == simulate(tried, 1).table


def test_ten_thousand_trials_on_a_thousand_workers_are_each_committed_once():
    rng = random.Random(7)
    lost = {r: rng.uniform(0, 8) for r in range(1, 1024, 10)}
    policy = ExitPolicy("budget", max_trials=10_000)
    tried = SimulatedJob(
        Random, small_space(20), lambda c: 0.5, policy=policy,
        duration_s=lambda item, rank: random.Random(f"{rank}{item.digest}").uniform(0.25, 0.75),
    )  # fmt: skip
    simulation = simulate(tried, 1024, lost, check=False)
    assert [r[0] for r in simulation.table] == list(range(10_000))
    assert len({r[2] for r in simulation.table}) == 10_000
