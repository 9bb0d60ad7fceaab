"""The agent with a fake trial process: a trial that waits for works, works while it waits, their end."""

import os

import numpy as np
import pytest

from disttune.config.job import RuntimeSection
from disttune.quantize.work import Work
from disttune.runtime.messages import Answer, CancelTask, Export, Exported, OpenFile, Refused
from disttune.runtime.replica import create_memory_file, write_replica
from disttune.runtime.start_messages import FileBytes, HaveFile, NeedFile, SendFile
from disttune.runtime.work_messages import (
    CancelWork,
    GoOn,
    KeepResult,
    LearnResults,
    NeedsWorks,
    ResultKept,
    RunWork,
    UseResult,
    WorkDied,
    WorkDone,
)
from tests.runtime.fake_host import SPACE, Rank, answer, built, evaluate, task

A = Work("gram", "a", "gram of /fc")
B = Work("solve", "b", "gptq of /fc", needs=("a",))
FAILED = UseResult(A, reason="singular")
LEARN = LearnResults(((A, "singular"),))

PREPARATION_S = RuntimeSection().preparation_timeout


@pytest.fixture
def rank() -> Rank:
    return Rank().ready()


@pytest.fixture
def waiting(rank: Rank) -> Rank:
    rank.gets(task(5)).hears(NeedsWorks(5, (A,)))
    assert rank.news() == [NeedsWorks(5, (A,))]
    rank.new_calls()
    return rank


def test_waiting_trial_goes_on_with_what_has_been_learnt(waiting: Rank):
    waiting.gets(FAILED)
    assert waiting.new_calls() == []
    waiting.gets(GoOn(5))
    assert waiting.new_calls() == [LEARN, task(5)]


def test_time_of_waiting_is_neither_limited_nor_counted(waiting: Rank):
    waiting.waits(10 * PREPARATION_S)
    waiting.gets(GoOn(5)).waits(7.0)
    waiting.hears(built(5)).gets(evaluate(5)).waits(3.0).hears(answer(5))
    (told,) = [m for m in waiting.news() if isinstance(m, Answer)]
    assert told.outcome.seconds == pytest.approx(10.0)


def test_work_runs_while_the_trial_waits_and_the_trial_after_it(waiting: Rank):
    waiting.gets(RunWork(B), FAILED, GoOn(5))
    assert waiting.new_calls() == [RunWork(B)]
    waiting.hears(WorkDone("b", {}))
    assert waiting.new_calls() == [LEARN, task(5)]


def test_trial_for_an_idle_rank_comes_after_the_work_it_does(rank: Rank):
    rank.gets(RunWork(A), task(5))
    assert rank.new_calls() == [RunWork(A)]
    rank.hears(WorkDone("a", {}))
    assert rank.new_calls() == [task(5)]


def test_trial_process_that_dies_over_a_work_leaves_the_waiting_trial_alone(waiting: Rank):
    waiting.gets(RunWork(B)).dies()
    assert waiting.news() == [WorkDied("b", "signal SIGSEGV\nlast lines of its output:\nabout to die")]
    waiting.gets(GoOn(5))
    assert waiting.new_calls() == [RunWork(B), "start", "load", task(5)]


def test_idle_trial_process_that_dies_is_told_everything_again(waiting: Rank):
    waiting.gets(FAILED, RunWork(B)).hears(WorkDone("b", {})).dies()
    waiting.gets(GoOn(5))
    assert waiting.new_calls() == [LEARN, RunWork(B), "start", "load", LEARN, task(5)]
    assert [m for m in waiting.news() if isinstance(m, Answer)] == []


def test_death_after_it_goes_on_is_the_trials(waiting: Rank):
    waiting.gets(GoOn(5)).dies()
    (told,) = [m for m in waiting.news() if isinstance(m, Answer)]
    assert (told.outcome.status, told.again) == ("crashed", True)


def test_work_has_an_hour(rank: Rank):
    rank.gets(RunWork(A)).waits(PREPARATION_S + 10)
    (told,) = [m for m in rank.news() if isinstance(m, WorkDied)]
    assert told.reason.startswith("it took longer than 3600 s")


def test_cancelled_work_ends_at_once_whether_begun_or_not(rank: Rank):
    rank.gets(RunWork(A), RunWork(B), CancelWork("b"), CancelWork("a"), task(5))
    assert rank.new_calls() == [RunWork(A), "kill: cancelled", "start", "load", task(5)]
    assert rank.news() == []


def test_cancelled_trial_that_waits_makes_room_without_a_kill(waiting: Rank):
    waiting.gets(CancelTask(5), GoOn(5), task(6))
    assert waiting.new_calls() == [task(6)]


def test_export_that_needs_works_is_over_until_it_is_asked_for_again(rank: Rank):
    export = Export(0, SPACE[0], "/run/best.onnx")
    rank.gets(export).hears(NeedsWorks(None, (A,)))
    assert rank.news() == [NeedsWorks(None, (A,))]
    rank.gets(RunWork(A)).hears(WorkDone("a", {})).gets(FAILED, export)
    assert rank.new_calls() == [export, RunWork(A), LEARN, export]
    rank.hears(Exported(0, "m", "/run/best.onnx"))


def test_rank_0_keeps_results_and_sends_them_to_other_nodes(rank: Rank):
    rank.gets(KeepResult("a", {"x": np.arange(3)}))
    (kept,) = rank.news()
    assert isinstance(kept, ResultKept)
    rank.gets(SendFile("a", 2))
    ((to, sent),) = rank.sent
    assert (to, bytes(sent.data)[:16]) == (2, kept.nonce)


def test_nothing_begins_before_results_from_another_node_are_here(waiting: Rank):
    waiting.gets(UseResult(A, OpenFile(os.getpid(), 9999), b"n" * 16), GoOn(5))
    assert waiting.news() == [NeedFile("a")]
    assert waiting.new_calls() == []
    descriptor = create_memory_file()
    write_replica(descriptor, {"x": np.arange(3)})

    waiting.gets(FileBytes("a", os.pread(descriptor, 10_000, 0)))

    (have,) = waiting.news()
    assert isinstance(have, HaveFile)
    assert waiting.new_calls() == [LearnResults(((A, have.file),)), task(5)]


def test_refusal_of_results_is_passed_on(waiting: Rank):
    refused = Refused("LearnResults", "a fault of disttune", 1)
    assert waiting.hears(refused).news() == [refused]
