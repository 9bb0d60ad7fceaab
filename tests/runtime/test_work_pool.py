"""The pool of works under any order of answers, deaths and lost ranks; who gets which work."""

from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from disttune.config.errors import InternalError
from disttune.quantize.work import Work
from disttune.runtime.work_pool import MAX_DEATHS, Asker, Progress, WorkPool

RANKS = range(4)
CANDIDATES = {"a": "123", "b": "234", "c": "15", "d": "6"}  # the layers that each needs solved


def work(key: str, cost: float = 1.0, place: str = "", needs: tuple[str, ...] = ()) -> Work:
    return Work("solve", key, f"gptq of {key}", cost=cost, place=place, needs=needs)


def pool_with(*works: Work) -> WorkPool:
    """Assignment 0 of rank 9 waits for these."""
    pool = WorkPool()
    pool.ask(Asker(9, 0), works)
    return pool


class Crowd(RuleBasedStateMachine):
    """Ranks that work on candidates: first "gram N", then "solve N" of every layer N."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = WorkPool()
        self.alive = set(RANKS)
        self.learnt: dict[int, set[str]] = {rank: set() for rank in RANKS}
        self.trials: dict[int, tuple[int, str]] = {}  # by rank: assignment and candidate
        self.to_build = [*CANDIDATES, *CANDIDATES]
        self.built: list[str] = []
        self.doing: dict[int, str] = {}
        self.arriving: list[str] = []
        self.settled: Counter[str] = Counter()
        self.n_assigned = 0
        self.n_deaths: Counter[str] = Counter()

    def ask(self, rank: int) -> None:
        assignment, candidate = self.trials[rank]
        works = []
        for layer in CANDIDATES[candidate]:
            gram, solve = work(f"gram {layer}"), work(f"solve {layer}", needs=(f"gram {layer}",))
            missing = [w for w in (gram, solve) if w.key not in self.learnt[rank]]
            works += missing[:1]
        if works:
            self.pool.ask(Asker(rank, assignment), works)
            self.satisfy()
        else:
            del self.trials[rank]
            self.built.append(candidate)

    def satisfy(self) -> None:
        for asker, keys in self.pool.take_satisfied():
            assert self.trials[asker.rank][0] == asker.assignment
            assert all(self.settled[key] for key in keys)
            self.learnt[asker.rank] |= set(keys)
            self.ask(asker.rank)

    @precondition(lambda self: self.to_build and self.alive - self.trials.keys())
    @rule(data=st.data())
    def a_rank_gets_a_trial(self, data: st.DataObject) -> None:
        rank = data.draw(st.sampled_from(sorted(self.alive - self.trials.keys())))
        self.n_assigned += 1
        self.trials[rank] = (self.n_assigned, self.to_build.pop())
        self.ask(rank)

    @rule(ranks=st.permutations(RANKS))
    def works_are_handed_out(self, ranks: list[int]) -> None:
        for rank, given in self.pool.hand_out([r for r in ranks if r in self.alive]):
            assert rank not in self.doing
            assert given.key not in self.doing.values()
            assert not self.settled[given.key]
            assert all(self.settled[need] for need in given.needs)
            self.doing[rank] = given.key

    @precondition(lambda self: self.doing)
    @rule(data=st.data())
    def a_work_is_done(self, data: st.DataObject) -> None:
        rank = data.draw(st.sampled_from(sorted(self.doing)))
        key = self.doing.pop(rank)
        assert self.pool.arrived(rank, key)
        assert not self.pool.arrived(rank, key)
        self.arriving.append(key)

    @precondition(lambda self: self.arriving)
    @rule()
    def a_result_is_kept(self) -> None:
        key = self.arriving.pop()
        self.settled[key] += 1
        self.pool.settle(key)
        self.satisfy()

    @precondition(lambda self: self.doing)
    @rule(data=st.data())
    def a_trial_process_dies_over_a_work(self, data: st.DataObject) -> None:
        rank = data.draw(st.sampled_from(sorted(self.doing)))
        key = self.doing.pop(rank)
        self.ends_badly(key)
        self.pool.died(rank, "another", "it does that one no longer")
        self.pool.died(rank, key, "signal SIGSEGV")
        self.satisfy()

    @precondition(lambda self: len(self.alive) > 1)
    @rule(data=st.data())
    def a_rank_is_lost(self, data: st.DataObject) -> None:
        rank = data.draw(st.sampled_from(sorted(self.alive)))
        self.alive.discard(rank)
        if rank in self.doing:
            self.ends_badly(self.doing.pop(rank))
        if rank in self.trials:
            self.to_build.append(self.trials.pop(rank)[1])
        self.pool.lost(rank)
        self.satisfy()

    @precondition(lambda self: self.trials)
    @rule(data=st.data())
    def a_trial_is_cancelled(self, data: st.DataObject) -> None:
        rank = data.draw(st.sampled_from(sorted(self.trials)))
        assignment, candidate = self.trials.pop(rank)
        self.to_build.append(candidate)
        for other, key in self.pool.withdraw(Asker(rank, assignment)):
            assert self.doing.pop(other) == key

    @invariant()
    def nothing_is_forgotten(self) -> None:
        self.pool.check_invariants()
        assert self.pool.running == self.doing.keys()
        assert {asker.rank for asker in self.pool.waiting} == self.trials.keys()
        assert all(n == 1 for n in self.settled.values())

    def ends_badly(self, key: str) -> None:
        self.n_deaths[key] += 1
        if self.n_deaths[key] >= MAX_DEATHS:
            self.settled[key] += 1

    def teardown(self) -> None:
        """Without further accidents everything is built, by whoever is left."""
        for _ in range(1000):
            if not (self.to_build or self.trials):
                break
            for rank in sorted(self.alive - self.trials.keys())[: len(self.to_build)]:
                self.n_assigned += 1
                self.trials[rank] = (self.n_assigned, self.to_build.pop())
                self.ask(rank)
            self.works_are_handed_out(list(RANKS))
            for rank, key in list(self.doing.items()):
                del self.doing[rank]
                assert self.pool.arrived(rank, key)
                self.arriving.append(key)
            while self.arriving:
                self.a_result_is_kept()
            self.nothing_is_forgotten()
        assert sorted(self.built) == sorted([*CANDIDATES, *CANDIDATES])


TestAnyOrder = Crowd.TestCase
TestAnyOrder.settings = settings(max_examples=60, stateful_step_count=40)


def test_longest_work_comes_first_and_equal_ones_in_order():
    pool = pool_with(work("a", 1), work("b", 3), work("c", 1))
    assert [(rank, w.key) for rank, w in pool.hand_out([0, 1, 2])] == [(0, "b"), (1, "a"), (2, "c")]


def test_rank_stays_at_its_place_and_others_take_free_ones():
    pool = pool_with(work("a1", 9, "a"), work("a2", 8, "a"), work("b1", 1, "b"), work("a3", 7, "a"))
    assert [w.key for _, w in pool.hand_out([0, 1])] == ["a1", "b1"]
    assert pool.arrived(0, "a1")
    assert [(rank, w.key) for rank, w in pool.hand_out([0, 1, 2])] == [(0, "a2"), (2, "a3")]


def test_work_that_killed_a_trial_process_goes_to_another_rank_if_one_is_free():
    pool = pool_with(work("a", 2), work("b", 1))
    pool.hand_out([0])
    pool.died(0, "a", "signal SIGSEGV")
    assert [(rank, w.key) for rank, w in pool.hand_out([0, 1])] == [(0, "b"), (1, "a")]


def test_work_that_kills_three_trial_processes_has_failed_and_says_why():
    pool = pool_with(work("a"))
    for _ in range(MAX_DEATHS):
        assert pool.take_satisfied() == []
        pool.hand_out([0])
        pool.died(0, "a", "signal SIGSEGV")

    assert pool.take_satisfied() == [(Asker(9, 0), ("a",))]
    entry = pool.entry("a")
    assert entry is not None
    assert entry.reason == "gptq of a ended 3 trial processes; the last: signal SIGSEGV"
    assert pool.hand_out([0]) == []


def test_what_a_cancelled_trial_alone_waited_for_is_not_done():
    pool = pool_with(work("mine"), work("ours"))
    pool.ask(Asker(8, 1), [work("ours"), work("theirs")])
    pool.hand_out([0, 1])
    assert pool.withdraw(Asker(9, 0)) == [(0, "mine")]
    assert [w.key for _, w in pool.hand_out([0])] == ["theirs"]


def test_end_of_the_search_leaves_what_an_export_waits_for():
    pool = pool_with(work("trial's"), work("queued"))
    pool.ask(Asker(0, None), [work("export's")])
    pool.hand_out([1])
    assert pool.stop() == [(1, "trial's")]
    assert [w.key for _, w in pool.hand_out([1, 2])] == ["export's"]


def test_who_asks_for_what_is_known_is_satisfied_at_once():
    pool = pool_with(work("a"))
    pool.hand_out([0])
    pool.arrived(0, "a")
    pool.settle("a")
    pool.take_satisfied()
    pool.ask(Asker(3, 7), [work("a")])
    assert pool.take_satisfied() == [(Asker(3, 7), ("a",))]


def test_needs_that_nobody_has_asked_for_are_a_fault():
    with pytest.raises(InternalError, match="gptq of b needs results that nobody has asked for: \\['a'\\]"):
        pool_with(work("b", needs=("a",)))


def test_progress_counts_the_kind_that_has_been_running_for_longest():
    pool = pool_with(work("a"), work("b"), Work("gram", "c", "gram of c"))
    assert pool.progress is None
    pool.hand_out([0, 1, 2])
    assert pool.progress == Progress("solve", "gptq of a", 0, 2)
    pool.arrived(0, "a")
    pool.settle("a")
    assert pool.progress == Progress("solve", "gptq of b", 1, 2)
    pool.arrived(1, "b")
    assert pool.progress == Progress("gram", "gram of c", 0, 1)
    pool.arrived(2, "c")
    assert pool.progress is None
