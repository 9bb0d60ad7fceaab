"""The agent with a fake trial process: deadlines, cancelling and death in each phase, restarts."""

import os
from dataclasses import replace

import pytest

from disttune.config.job import RuntimeSection
from disttune.runtime.agent import MAX_DEATHS_IN_A_ROW
from disttune.runtime.messages import (
    Alive,
    Answer,
    CancelTask,
    CombineScores,
    EvaluateModel,
    Export,
    Exported,
    Goodbye,
    Heard,
    LogText,
    OpenFile,
    PartScored,
    Refused,
    SkipModel,
    Unusable,
    Welcome,
)
from disttune.runtime.replica import create_memory_file, write_replica
from disttune.runtime.start_messages import CollectFiles, FilesCollected, Loaded, MeasureBaseline
from disttune.schedule.outcome import Outcome
from tests.runtime.fake_host import OK, SPACE, Rank, answer, built, evaluate, setup, task

EXPORT = Export(0, SPACE[0], "/run/best.onnx")
YOUR_CODE = ". It runs your code: call that outside of disttune to see why"
EXPORTED = Exported(0, "m", "/run/best.onnx")

PREPARATION_S = RuntimeSection().preparation_timeout


@pytest.fixture
def rank() -> Rank:
    return Rank().ready()


def without_alive(messages: list[object]) -> list[object]:
    return [m for m in messages if not isinstance(m, Alive)]


# A trial


def test_a_part_is_told_with_its_seconds_and_the_model_waits_for_the_next(rank: Rank):
    part = PartScored(5, range(3), ((0.5,),) * 3, evaluation_s=2.0, opening_s=0.5)
    rank.gets(task(5, timeout_s=10.0))
    rank.now_s = 1.0
    rank.hears(built(5)).gets(EvaluateModel(5, blocks=range(3)))
    rank.now_s = 3.0
    rank.hears(part)
    rank.waits(100.0)  # for others: no work, and no limit
    rank.gets(CombineScores(5, False, ((0.5,),) * 6))
    rank.now_s += 1.0
    rank.hears(answer(5))

    assert without_alive(rank.news()) == [
        built(5),
        replace(part, seconds=3.0),
        Answer(5, replace(OK, seconds=1.0, rank=3)),
    ]


def test_a_part_has_the_deadline_of_its_trial(rank: Rank):
    rank.gets(task(5, timeout_s=10.0)).hears(built(5)).gets(EvaluateModel(5, blocks=range(3)))

    rank.waits(11.0)

    (told,) = [m for m in rank.news() if isinstance(m, Answer)]
    assert (told.outcome.status, told.again) == ("timeout", True)


def test_a_trial_is_built_asked_about_and_evaluated(rank: Rank):
    rank.gets(task(5))
    assert rank.new_calls() == [task(5)]
    rank.now_s = 2.0
    rank.hears(built(5))
    assert rank.news() == [built(5)]

    rank.gets(evaluate(5))
    rank.now_s = 5.0
    rank.hears(answer(5))

    assert rank.new_calls() == [evaluate(5)]
    assert without_alive(rank.news()) == [Answer(5, replace(OK, seconds=5.0, rank=3))]


def test_a_model_that_is_known_is_skipped_and_the_next_trial_begins(rank: Rank):
    rank.gets(task(5)).hears(built(5))

    rank.gets(SkipModel(5), task(6))

    assert rank.new_calls() == [task(5), SkipModel(5), task(6)]


def test_a_trial_that_failed_comes_with_the_last_lines_it_wrote(rank: Rank):
    rank.gets(task(5)).hears(answer(5, Outcome("failed", reason="raised")))

    (told,) = rank.news()
    assert (told.outcome.status, told.outcome.stderr_tail, told.again) == ("failed", "last line", False)


def test_an_answer_about_another_assignment_is_not_this_ones(rank: Rank):
    rank.gets(task(5), CancelTask(5), task(6))
    rank.hears(answer(5), built(5))

    assert rank.news() == []
    rank.hears(built(6))
    assert rank.news() == [built(6)]


# Deadlines


def test_the_deadline_of_an_evaluation_counts_from_its_start(rank: Rank):
    rank.gets(task(5, timeout_s=10.0))
    rank.waits(100.0)  # quantizing has a limit of its own
    rank.hears(built(5)).waits(50.0)  # and asking takes no one's time
    rank.gets(evaluate(5)).waits(9.0)
    assert [m for m in rank.news() if isinstance(m, Answer)] == []

    rank.waits(2.0)

    (told,) = without_alive(rank.news())
    assert (told.outcome.status, told.again, told.outcome.rank) == ("timeout", True, 3)
    assert told.outcome.reason == "the evaluation took longer than 10 s (tuning.trial_timeout)"
    assert (told.outcome.model_digest, told.outcome.size_bytes, told.outcome.n_quantized) == ("m", 9, 2)
    assert rank.new_calls()[-3:] == [f"kill: {told.outcome.reason}", "start", "load"]


def test_quantizing_has_an_hour(rank: Rank):
    rank.gets(task(5, timeout_s=10.0)).waits(PREPARATION_S - 10)
    assert [m for m in rank.news() if isinstance(m, Answer)] == []

    rank.waits(20)

    (told,) = without_alive(rank.news())
    assert (told.outcome.status, told.outcome.reason) == ("timeout", "quantizing took longer than 3600 s")


def test_the_baseline_has_an_hour_too(rank: Rank):
    rank.gets(MeasureBaseline()).waits(PREPARATION_S + 10)

    (told,) = without_alive(rank.news())
    assert told == Refused(
        "MeasureBaseline",
        f"the evaluation of the float model failed: it took longer than 3600 s{YOUR_CODE}\n"
        "last lines of its output:\nlast line",
        2,
    )


# Cancelling


def test_cancelling_while_it_builds_ends_the_process_and_starts_another(rank: Rank):
    rank.gets(task(5), CancelTask(5))

    assert rank.new_calls() == [task(5), "kill: cancelled", "start", "load"]
    assert rank.news() == []  # no answer is expected


def test_cancelling_while_it_asks_spares_the_process(rank: Rank):
    rank.gets(task(5)).hears(built(5)).gets(CancelTask(5))

    assert rank.new_calls() == [task(5), SkipModel(5)]


def test_cancelling_while_it_evaluates_ends_the_process_and_starts_another(rank: Rank):
    rank.gets(task(5)).hears(built(5)).gets(evaluate(5), CancelTask(5))

    assert rank.new_calls() == [task(5), evaluate(5), "kill: cancelled", "start", "load"]
    rank.gets(task(6))
    assert rank.new_calls() == [task(6)]


def test_cancelling_what_has_ended_or_is_another_changes_nothing(rank: Rank):
    rank.gets(task(5), CancelTask(4)).hears(answer(5)).gets(CancelTask(5))

    assert rank.new_calls() == [task(5)]


def test_cancelling_a_trial_that_waits_for_an_export_takes_it_back(rank: Rank):
    rank.gets(EXPORT, task(5), CancelTask(5)).hears(EXPORTED)

    assert rank.new_calls() == [EXPORT]
    assert rank.news() == [EXPORTED]


# Death


@pytest.mark.parametrize("phase", ["building", "asking", "evaluating"])
def test_death_in_any_phase_of_a_trial_is_an_answer_that_may_be_repeated(rank: Rank, phase: str):
    rank.gets(task(5))
    if phase != "building":
        rank.hears(built(5))
    if phase == "evaluating":
        rank.gets(evaluate(5))
    rank.news()

    rank.dies()

    (told,) = rank.news()
    assert (told.assignment, told.again) == (5, True)
    assert (told.outcome.status, told.outcome.reason) == ("crashed", "signal SIGSEGV")
    assert told.outcome.stderr_tail == "about to die"
    assert told.outcome.model_digest == (None if phase == "building" else "m")
    assert rank.new_calls()[-2:] == ["start", "load"]


@pytest.mark.parametrize(
    ("message", "name", "mend"),
    [
        (MeasureBaseline(), "the evaluation of the float model", YOUR_CODE),
        (CollectFiles(), "collecting the user's files", ""),
        (EXPORT, "the export of the best model", ""),
    ],
)
def test_death_in_a_task_of_rank_0_is_refused_with_its_name(rank: Rank, message, name, mend):
    rank.gets(message).dies()

    assert rank.news() == [
        Refused(
            type(message).__name__,
            f"{name} failed: signal SIGSEGV{mend}\nlast lines of its output:\nabout to die",
            2,
        )
    ]


def test_death_without_anything_to_do_starts_another_process(rank: Rank):
    rank.dies()

    assert rank.news() == []
    assert rank.new_calls() == ["start", "load"]


def test_a_process_that_cannot_be_kept_running_makes_the_rank_unusable(rank: Rank):
    for _ in range(MAX_DEATHS_IN_A_ROW):
        rank.dies()
    assert rank.news() == []
    rank.new_calls()

    rank.dies()

    (told,) = rank.news()
    assert isinstance(told, Unusable)
    assert told.reason.startswith("the trial process cannot be kept running: signal SIGSEGV")
    assert rank.new_calls() == []


def test_a_process_that_answers_in_between_is_kept_running(rank: Rank):
    for _ in range(3 * MAX_DEATHS_IN_A_ROW):
        rank.dies().hears(Loaded())

    assert rank.news() == []


# One thing at a time


def test_an_export_waits_for_the_trial_that_runs_and_goes_before_the_next(rank: Rank):
    rank.gets(task(5)).hears(built(5)).gets(evaluate(5), EXPORT)
    assert rank.new_calls() == [task(5), evaluate(5)]
    rank.hears(answer(5))
    assert rank.new_calls() == [EXPORT]
    rank.gets(task(6))
    assert rank.new_calls() == []

    rank.hears(EXPORTED)

    assert rank.new_calls() == [task(6)]


def test_a_death_during_an_export_is_not_blamed_on_the_trial_behind_it(rank: Rank):
    rank.gets(EXPORT, task(6)).dies()

    assert [type(m).__name__ for m in rank.news()] == ["Refused"]
    assert rank.new_calls() == [EXPORT, "start", "load", task(6)]


def test_an_export_behind_a_trial_that_dies_is_done_by_the_next_process(rank: Rank):
    rank.gets(task(5), EXPORT).dies()

    assert rank.new_calls() == [task(5), "start", "load", EXPORT]
    rank.hears(EXPORTED)
    assert [type(m).__name__ for m in rank.news()] == ["Answer", "Exported"]


def test_an_export_behind_a_trial_that_is_cancelled_is_done_by_the_next_process(rank: Rank):
    rank.gets(task(5), EXPORT, CancelTask(5))

    assert rank.new_calls() == [task(5), "kill: cancelled", "start", "load", EXPORT]


def test_tasks_of_rank_0_are_done_in_order(rank: Rank):
    rank.gets(MeasureBaseline(), CollectFiles())
    assert rank.new_calls() == [MeasureBaseline()]

    rank.dies()

    assert rank.new_calls() == ["start", "load", CollectFiles()]
    rank.hears(FilesCollected({}))
    assert [type(m).__name__ for m in rank.news()] == ["Refused", "FilesCollected"]


# Signs of life, logs, the end


def test_a_sign_of_life_is_sent_at_each_heartbeat():
    rank = Rank(heartbeat=5.0)

    rank.waits(26.0)

    assert rank.news() == [Alive()] * 5


def test_a_master_that_is_silent_for_too_long_forsakes_the_rank():
    rank = Rank()
    rank.ready()
    rank.gets(Welcome(heartbeat_s=1.0, master_silent_s=20.0, preparation_s=3600.0)).waits(19.0)
    assert not rank.agent.forsaken
    rank.gets(Heard()).waits(19.0)
    assert not rank.agent.forsaken

    rank.waits(2.0)

    assert rank.agent.forsaken


def test_what_the_process_writes_is_passed_on_in_portions(rank: Rank):
    rank.host.log = "one\n"
    rank.agent.poll()
    rank.host.log = "two\n"
    rank.agent.poll()
    assert rank.news() == []

    rank.waits(1.5)

    assert without_alive(rank.news()) == [LogText("one\ntwo\n")]


def test_what_was_written_comes_before_the_answer(rank: Rank):
    rank.gets(task(5))
    rank.host.log = "measuring\n"

    rank.hears(answer(5))

    assert [type(m).__name__ for m in rank.news()] == ["LogText", "Answer"]


def test_the_goodbye_is_kept(rank: Rank):
    rank.gets(Goodbye(3, message="that was it"))

    assert rank.agent.goodbye == Goodbye(3, message="that was it")


def test_code_that_hangs_while_it_is_imported_costs_its_rank_alone():
    rank = Rank()
    descriptor = create_memory_file()
    nonce = write_replica(descriptor, {"a": b"x"})
    rank.gets(setup(rank, OpenFile(os.getpid(), descriptor), nonce)).waits(3599.0)
    assert not [m for m in rank.news() if isinstance(m, Unusable)]

    rank.waits(20.0)

    (unusable,) = [m for m in rank.news() if isinstance(m, Unusable)]
    assert unusable.reason.startswith("loading your code took longer than 3600 s")
