"""Trials that several ranks evaluate in parts: no row depends on it, nothing is lost, and it pays."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from disttune.schedule.events import (
    Assign,
    Cancel,
    Combine,
    Evaluate,
    Interrupt,
    ModelBuilt,
    Notice,
    PartDone,
    Settle,
    Skip,
    TaskDone,
    TaskFailed,
    WorkerJoined,
    WorkerLost,
)
from disttune.schedule.exit_policy import ExitPolicy
from disttune.schedule.outcome import Outcome
from disttune.strategy import Stage
from tests.simulated import Listed, SimulatedJob, landscape, simulate, small_space

SPACE = small_space(6)
ITEMS = [SPACE[i] for i in range(24)]
BUDGET = ExitPolicy("budget", max_trials=1000)
N_BLOCKS = 100


def job(items=ITEMS, **options):
    stages = [Stage("first", list(items[:1]), goal_stops=False), Stage("rest", list(items[1:]))]
    defaults = {
        "policy": BUDGET,
        "duration_s": lambda item, rank: 10.0,
        "n_blocks": N_BLOCKS,
        "build_s": 0.1,
        "evaluation_s": 10.0,
    }
    return SimulatedJob(lambda: Listed(*stages), SPACE, landscape(1), **(defaults | options))


def ok(model="m", seconds=10.0):
    return Outcome("ok", (0.5,), model_digest=model, size_bytes=1, n_quantized=1, seconds=seconds)


class Ranks:
    """A scheduler with one trial, and what it commands."""

    def __init__(self, n, n_trials=1, nodes=1, **options):
        stages = [Stage("all", ITEMS[:n_trials])]
        self.scheduler = SimulatedJob(
            lambda: Listed(*stages), SPACE, landscape(1), policy=BUDGET, n_blocks=N_BLOCKS,
            evaluation_s=10.0, **options,
        ).scheduler()  # fmt: skip
        self.assigned = {}
        self.doing = {}
        self.now_s = 0.0
        for rank in range(n):
            self.gets(WorkerJoined(rank, f"node-{rank % nodes}", 0.0))

    def gets(self, event):
        commands = self.scheduler.handle(event)
        self.scheduler.check_invariants()
        for command in commands:
            if isinstance(command, Assign):
                self.assigned[command.rank] = command.assignment
            if isinstance(command, Evaluate | Combine | Skip):
                self.doing[command.rank] = command
        return commands

    def built(self, rank, model="m", after_s=0.1):
        self.now_s += after_s
        return self.gets(ModelBuilt(rank, self.assigned[rank], model, self.now_s))

    def scored(self, rank):
        """Each block takes 0.1 s."""
        seconds = 0.1 * len(self.doing[rank].blocks)
        self.now_s += seconds / len(self.assigned)
        return self.gets(PartDone(rank, self.assigned[rank], seconds, 0.1, self.now_s))

    def done(self, rank, outcome=None):
        return self.gets(TaskDone(rank, self.assigned[rank], outcome or ok(), self.now_s))

    def failed(self, rank, status):
        return self.gets(TaskFailed(rank, self.assigned[rank], Outcome(status), self.now_s))

    def score_all(self, *ranks):
        """Until one of them is to combine; returns the blocks in the order they were scored."""
        blocks = []
        while True:
            for rank in ranks:
                command = self.doing[rank]
                if isinstance(command, Combine):
                    return rank, blocks
                if isinstance(command, Evaluate):
                    blocks += command.blocks
                    self.scored(rank)


@pytest.mark.parametrize("ranks", [1, 2, 7, 64])
def test_one_candidate_uses_all_ranks(ranks):
    found = simulate(job(ITEMS[:1], evaluation_s=100.0, duration_s=lambda item, rank: 100.0), ranks)

    assert found.table == simulate(job(ITEMS[:1], n_blocks=0), 1).table
    assert found.time_s < 1.1 * 100 / ranks + 1.0
    assert (found.n_parts == 0) == (ranks == 1)


def test_two_hundred_trials_that_all_ranks_are_busy_with_are_not_split_before_the_last_of_them():
    items = [small_space(8)[i] for i in range(200)]
    stages = [Stage("all", items, goal_stops=False)]
    options = {"policy": BUDGET, "duration_s": lambda item, rank: 10.0, "build_s": 0.1, "evaluation_s": 10.0}
    make = [
        SimulatedJob(lambda: Listed(*stages), small_space(8), landscape(1), n_blocks=n, **options)
        for n in (0, 1000)
    ]

    whole, split = (simulate(one, 64) for one in make)

    assert split.table == whole.table
    assert split.n_evaluations >= 200 - 2 * 64
    assert whole.time_s == pytest.approx(4 * 10.1)
    assert split.time_s < 3.3 * 10.1  # 200 / 64 is 3.125


def test_trials_of_a_lazy_stage_are_not_split_while_more_can_be_drawn():
    items = [small_space(8)[i] for i in range(200)]
    stage = Stage("lazy", iter(items), goal_stops=False)
    found = simulate(
        SimulatedJob(
            lambda: Listed(stage), small_space(8), landscape(1), policy=BUDGET, n_blocks=100, build_s=0.1,
            evaluation_s=10.0, duration_s=lambda item, rank: 10.0,
        ),
        8,
    )  # fmt: skip
    assert found.n_evaluations >= 200 - 2 * 8
    assert 0 < found.n_parts < 20 * 16


@settings(max_examples=60, deadline=None)
@given(
    n_ranks=st.integers(1, 40),
    nodes=st.integers(1, 8),
    lost=st.dictionaries(st.integers(1, 39), st.floats(0, 60), max_size=12),
    n_blocks=st.integers(2, 60),
    seconds=st.lists(st.floats(0.05, 30), min_size=1, max_size=8),
    build_s=st.floats(0, 3),
    flaws=st.sets(st.integers(0, 23), max_size=6),
    lazy=st.booleans(),
)
def test_no_row_depends_on_parts_or_deaths(n_ranks, nodes, lost, n_blocks, seconds, build_s, flaws, lazy):
    """The oracle is a plain sequential run without parts or deaths."""
    at = {item.digest: i for i, item in enumerate(ITEMS)}
    flaw = {item.digest: i % 3 if i in flaws else None for i, item in enumerate(ITEMS)}

    def first(item):
        """The first candidate that makes this one's model: two make the same unless one has a flaw."""
        return item if flaw[item.digest] is not None else ITEMS[at[item.digest] // 2 * 2]

    def metric(item):
        if flaw[item.digest] == 0:
            raise ValueError("no")
        return landscape(1)(first(item))

    def make(**options):
        stages = [Stage("all", iter(ITEMS) if lazy else ITEMS, goal_stops=False)]
        return SimulatedJob(
            lambda: Listed(*stages),
            SPACE,
            metric,
            policy=BUDGET,
            model=lambda item: f"{flaw[item.digest]} {first(item).digest}",
            crash=lambda item: flaw[item.digest] == 1,
            timeout=lambda item: flaw[item.digest] == 2,
            duration_s=lambda item, rank: seconds[(at[item.digest] + rank) % len(seconds)],
            build_s=build_s,
            **options,
        )

    lost = {rank: at_s for rank, at_s in lost.items() if rank < n_ranks}
    if len({rank % nodes for rank in lost}) > 2:  # a trial that ends three nodes counts as the cause
        lost = {}
    found = simulate(make(n_blocks=n_blocks, evaluation_s=seconds[0]), n_ranks, lost, nodes=nodes)

    plain = simulate(make(n_blocks=0), 1)
    assert found.table == plain.table
    assert found.best == plain.best
    settled = Counter(c.task for c in found.commands if isinstance(c, Settle))
    assert set(settled.values()) == {1}


def test_ranks_that_join_after_a_trial_has_begun_have_a_part_in_it():
    scheduler = SimulatedJob(
        lambda: Listed(Stage("all", ITEMS[:1])), SPACE, landscape(1), policy=BUDGET, n_blocks=N_BLOCKS,
        evaluation_s=10.0, n_ranks=2,
    ).scheduler()  # fmt: skip
    scheduler.handle(WorkerJoined(0, "node", 0.0))
    (first,) = [c for c in scheduler.handle(ModelBuilt(0, 0, "m", 0.1)) if isinstance(c, Evaluate)]

    late = scheduler.handle(WorkerJoined(1, "node", 0.2))

    assert 0 < len(first.blocks) < N_BLOCKS / 8
    assert [(c.rank, c.task) for c in late if isinstance(c, Assign)] == [(1, 0)]


def test_every_block_is_scored_once_and_one_rank_puts_the_scores_together():
    ranks = Ranks(3)
    first = next(iter(ranks.assigned))
    assert ranks.built(first) == [Evaluate(first, 0, False, ranks.doing[first].blocks), *ranks_begin(1, 2)]
    ranks.built(1)
    ranks.built(2)

    last, blocks = ranks.score_all(0, 1, 2)

    assert sorted(blocks) == list(range(N_BLOCKS))
    settled = [c for c in ranks.done(last) if isinstance(c, Settle)]
    assert [s.outcome.n_ranks for s in settled] == [3]


def ranks_begin(*ranks):
    """The commands by which these begin to help with trial 0."""
    return [
        Assign(rank, assignment, 0, ITEMS[0], attempt=assignment + 1)
        for assignment, rank in enumerate(ranks, start=1)
    ]


def test_what_a_lost_rank_had_begun_is_scored_by_another_and_nothing_else_is_again():
    ranks = Ranks(3)
    ranks.built(0)
    ranks.built(1)
    ranks.built(2)
    lost = ranks.doing[1].blocks
    ranks.gets(WorkerLost(1, ranks.now_s))

    _, blocks = ranks.score_all(0, 2)

    assert sorted(blocks) == list(range(N_BLOCKS))
    assert set(lost) <= set(blocks)


def test_when_all_ranks_of_a_split_trial_are_lost_another_goes_on_where_they_were():
    ranks = Ranks(2, nodes=2)
    ranks.built(0)
    ranks.built(1)
    scored = [*ranks.doing[0].blocks, *ranks.doing[1].blocks]
    ranks.scored(0)
    ranks.scored(1)
    ranks.gets(WorkerJoined(5, "node-5", ranks.now_s))
    ranks.gets(WorkerLost(0, ranks.now_s))
    ranks.gets(WorkerLost(1, ranks.now_s))
    ranks.built(5)

    last, blocks = ranks.score_all(5)

    assert last == 5
    assert sorted(blocks + scored) == list(range(N_BLOCKS))


@pytest.mark.parametrize("status", ["crashed", "timeout", "out_of_memory"])
def test_a_part_that_ends_badly_has_the_trial_run_in_one_piece(status):
    ranks = Ranks(3)
    ranks.built(0)
    ranks.built(1)
    ranks.built(2)
    ranks.failed(1, status)
    runs = [r for r in ranks.assigned if ranks.scheduler._dispatch.answered(r, ranks.assigned[r])]
    ranks.built(runs[0])

    assert ranks.doing[runs[0]] == Evaluate(runs[0], ranks.assigned[runs[0]])
    settled = [c for c in ranks.failed(runs[0], status) if isinstance(c, Settle)]
    assert [s.outcome.status for s in settled] == [status]


def test_a_part_that_fails_has_the_trial_run_in_one_piece_whose_message_counts():
    ranks = Ranks(2)
    ranks.built(0)
    ranks.built(1)
    ranks.done(1, Outcome("failed", reason="block 99"))
    again = max(ranks.assigned, key=lambda rank: ranks.assigned[rank])
    ranks.built(again)

    settled = [c for c in ranks.done(again, Outcome("failed", reason="block 3")) if isinstance(c, Settle)]

    assert [s.outcome.reason for s in settled] == ["block 3"]


def test_a_rank_that_builds_another_model_does_not_help():
    ranks = Ranks(2)
    ranks.built(0)

    commands = ranks.built(1, model="another")

    assert Skip(1, ranks.assigned[1]) in commands
    assert any(isinstance(c, Notice) and "not deterministic" in c.text for c in commands)
    _, blocks = ranks.score_all(0)
    assert sorted(blocks) == list(range(N_BLOCKS))


def test_a_part_that_never_ends_is_scored_by_another_rank():
    ranks = Ranks(2)
    ranks.built(0)
    ranks.built(1)
    stuck = ranks.doing[0].blocks
    while ranks.doing[1].blocks != stuck:
        ranks.scored(1)

    commands = ranks.scored(1)

    assert commands == [Cancel(0, ranks.assigned[0]), Combine(1, ranks.assigned[1])]
    assert ranks.gets(PartDone(0, ranks.assigned[0], 9.0, None, ranks.now_s)) == []


@pytest.mark.parametrize(
    "options",
    [
        {"evaluation_s": 0.15},  # shorter than a few messages are worth
        {"evaluation_s": 1.9, "build_s": 1.0},
        {"evaluation_s": 0.0},  # nothing is known
        {"n_blocks": 1},
    ],
)
def test_what_does_not_pay_is_not_split(options):
    seconds = options.get("evaluation_s", 10.0)
    found = simulate(job(ITEMS[:1], duration_s=lambda item, rank: seconds, **options), 8)
    assert found.n_parts == 0
    assert found.n_evaluations == 1


def test_what_was_scored_within_the_grace_time_counts():
    ranks = Ranks(2)
    ranks.built(0)
    ranks.built(1)
    ranks.gets(Interrupt(ranks.now_s, 60.0))

    last, _ = ranks.score_all(0, 1)

    assert any(isinstance(c, Settle) for c in ranks.done(last))
