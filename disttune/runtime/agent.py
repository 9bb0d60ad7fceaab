"""The agent of a rank: moves messages between the master and its one trial process, and supervises it.

It never runs user code or onnxruntime. It knows which run its trial process is busy with, how long that
may take, and what to tell the process again after a restart.
"""

import contextlib
import math
import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, cast

from disttune.config.job import Job, RuntimeSection
from disttune.runtime.equipment import Equipment
from disttune.runtime.lock_holder import process_alive
from disttune.runtime.log_forwarding import LogForwarding
from disttune.runtime.messages import (
    Alive,
    Answer,
    Built,
    CancelTask,
    CombineScores,
    EndProcess,
    EvaluateModel,
    Export,
    Exported,
    Goodbye,
    PartScored,
    ProcessId,
    Refused,
    RunTask,
    SkipModel,
    ToAgent,
    ToMaster,
    Unusable,
    Welcome,
)
from disttune.runtime.sharing import REPLICA, STATISTICS
from disttune.runtime.start_messages import (
    BaselineMeasured,
    BlocksMeasured,
    CalibrateBlocks,
    CollectFiles,
    FileBytes,
    FilesCollected,
    FindStatistics,
    HaveStatistics,
    Loaded,
    MeasureBaseline,
    MergeStatistics,
    Prepare,
    Prepared,
    Ready,
    SendFile,
    Setup,
    StatisticsLoaded,
    StatisticsMerged,
    StatisticsMissing,
    UseStatistics,
)
from disttune.runtime.supervisor import Death, Supervisor
from disttune.runtime.trial_host import TrialHost, inline_host
from disttune.runtime.trial_run import TrialRun
from disttune.runtime.work_messages import (
    CancelWork,
    GoOn,
    KeepResult,
    NeedsWorks,
    RunWork,
    UseResult,
    WorkDied,
    WorkDone,
)
from disttune.schedule.outcome import Outcome
from disttune.strategy.trial import Status

MAX_DEATHS_IN_A_ROW = 5
Special = (
    Prepare
    | MeasureBaseline
    | CollectFiles
    | CalibrateBlocks
    | FindStatistics
    | MergeStatistics
    | RunWork
    | Export
)
TASK_NAMES: dict[type, str] = {
    Prepare: "loading the job",
    CalibrateBlocks: "calibrating on the float model",
    FindStatistics: "reading the statistics of an earlier session",
    MergeStatistics: "merging the statistics",
    MeasureBaseline: "the evaluation of the float model",
    CollectFiles: "collecting the user's files",
    Export: "the export of the best model",
}


class Agent:
    """One per rank.

    Args:
        rank: of this process.
        host: of the trial process.
        tell: sends a message to the master.
        send_to: sends a message to another agent.
        now_s: the transport's clock.
        handed: the user's functions themselves, for trials within this process.
    """

    def __init__(
        self,
        rank: int,
        host: TrialHost,
        tell: Callable[[ToMaster], None],
        send_to: Callable[[int, ToAgent], None],
        now_s: Callable[[], float],
        handed: Mapping[str, Any] | None = None,
    ):
        self.rank = rank
        self.goodbye: Goodbye | None = None
        self._host = host
        self._tell = tell
        self._send_to = send_to
        self._now_s = now_s
        self._handed = handed
        self._heartbeat_s = RuntimeSection().heartbeat
        self._master_silent_s = RuntimeSection().master_silent
        self._preparation_s = RuntimeSection().preparation_timeout
        self._heard_s = self._beat_s = now_s()
        self._log = LogForwarding(tell)
        self._equipment = Equipment(tell, lambda message: self._host.send(message))
        self._told: set[str] = set()
        self._specials: list[Special] = []  # not begun yet
        self._special: Special | None = None  # that the trial process is busy with
        self._special_deadline_s = 0.0
        self._task: RunTask | None = None  # not begun yet
        self._deaths_in_a_row = 0
        self._load_deadline_s = math.inf  # for the user's code to be imported
        self._run: TrialRun | None = None

    def start(self) -> None:
        """Start the trial process early: its imports take longer than what the master does meanwhile."""
        self._host.start()

    def descriptors(self) -> list[int]:
        return self._host.descriptors()

    @property
    def forsaken(self) -> bool:
        """Whether the master has been silent for so long that it must be gone."""
        return self._now_s() - self._heard_s > self._master_silent_s

    def close(self) -> None:
        self._host.close()
        self._equipment.close()

    # From the master or another agent

    def receive(self, message: ToAgent) -> None:
        self._heard_s = self._now_s()
        match message:
            case Prepare():
                self._obey(message.job)
                self._specials.append(replace(message, replica=self._equipment.new(REPLICA)))
                self._begin_next()
            case FindStatistics() | MergeStatistics():
                self._specials.append(replace(message, file=self._equipment.new(STATISTICS)))
                self._begin_next()
            case MeasureBaseline() | CollectFiles() | CalibrateBlocks() | Export() | RunWork():
                self._specials.append(message)
                self._begin_next()
            case Setup():
                self._obey(message.job)
                self._load_deadline_s = self._now_s() + self._preparation_s
                self._equipment.set_up(message)
            case UseStatistics():
                self._equipment.use_statistics(message)
            case UseResult():
                self._equipment.use_result(message)
            case KeepResult():
                self._equipment.keep_result(message)
            case FileBytes():
                self._equipment.take_bytes(message)
                self._begin_next()
            case SendFile():
                for part in self._equipment.bytes_of(message.name):
                    self._send_to(message.to, part)
            case CancelWork():
                self._cancel_work(message.key)
            case GoOn():
                self._go_on(message.assignment)
            case RunTask():
                self._task = message
                self._begin_next()
            case EvaluateModel() | CombineScores():
                self._evaluate(message)
            case SkipModel():
                self._skip(message.assignment)
            case CancelTask():
                self._cancel(message.assignment)
            case Welcome():
                self._heartbeat_s = message.heartbeat_s
                self._master_silent_s = message.master_silent_s
                self._preparation_s = message.preparation_s
            case EndProcess():
                _end_process(message.process)
            case Goodbye():
                self.goodbye = message

    def _begin_next(self) -> None:
        """Hand one thing at a time to the trial process, so that a death has one cause."""
        run = self._run
        if self._special is not None or self._equipment.is_fetching:
            return
        if run is not None and not run.is_waiting:
            return
        now_s = self._now_s()
        if self._specials:
            self._equipment.hand_results()
            self._special = self._specials.pop(0)
            self._special_deadline_s = now_s + self._preparation_s
            self._host.mark_tail()
            self._host.send(self._special)
        elif run is not None:
            if run.may_go_on:
                self._equipment.hand_results()
                run.go_on(now_s)
                self._host.send(run.task)
        elif self._task is not None:
            self._run, self._task = TrialRun(self._task, now_s, self._preparation_s), None
            self._host.mark_tail()
            self._host.send(self._run.task)

    def _obey(self, job: Job) -> None:
        """Take over the job's settings; the trial process was started before they were known."""
        if job.runtime.isolation == "none" and isinstance(self._host, Supervisor):
            self._host.close()
            self._host = inline_host(self._handed)
            self._master_silent_s = math.inf  # while a trial runs here, nobody listens
        self._host.memory_limit_bytes = job.tuning.memory_limit

    # Runs

    def _evaluate(self, message: EvaluateModel | CombineScores) -> None:
        run = self._run
        if run is not None and run.task.assignment == message.assignment:
            run.evaluate(self._now_s())
            self._host.send(message)

    def _skip(self, assignment: int) -> None:
        if self._run is not None and self._run.task.assignment == assignment:
            self._run = None
            self._host.send(SkipModel(assignment))
            self._begin_next()

    def _cancel(self, assignment: int) -> None:
        if self._task is not None and self._task.assignment == assignment:
            self._task = None
        run = self._run
        if run is None or run.task.assignment != assignment:
            return
        if run.phase == "asking":
            self._skip(assignment)
            return
        if run.is_waiting:
            self._run = None
            self._begin_next()
            return
        self._run = None
        self._host.kill("crashed", "cancelled")
        self._restart()

    def _go_on(self, assignment: int) -> None:
        run = self._run
        if run is not None and run.task.assignment == assignment:
            run.may_go_on = True
            self._begin_next()

    def _cancel_work(self, key: str) -> None:
        self._specials = [s for s in self._specials if not (isinstance(s, RunWork) and s.work.key == key)]
        if isinstance(self._special, RunWork) and self._special.work.key == key:
            self._special = None
            self._host.kill("crashed", "cancelled")
            self._restart()

    # From the trial process

    def poll(self) -> None:
        """Pass on what the trial process says; end it when it is out of time."""
        messages, death = self._host.poll()
        for message in messages:
            self._pass_on(message)
        if self._now_s() > self._load_deadline_s:
            self._give_up_loading()
        if death is None:
            death = self._out_of_time()
        if death is not None:
            self._died(death)
        self._log.add(self._host.take_log(), self._now_s())
        now_s = self._now_s()
        if now_s - self._beat_s >= self._heartbeat_s:
            self._beat_s = now_s
            self._tell(Alive())

    def _pass_on(self, message: object) -> None:
        self._deaths_in_a_row = 0
        match message:
            case Loaded():
                self._load_deadline_s = math.inf
                self._tell_once(Ready())
            case StatisticsLoaded():
                self._tell_once(HaveStatistics())
            case Built() if self._run is not None and self._run.task.assignment == message.assignment:
                self._run.ask(message)
                self._tell(message)
            case NeedsWorks(assignment=None):  # the export comes again
                self._special = None
                self._tell(message)
                self._begin_next()
            case NeedsWorks() if self._run is not None and self._run.task.assignment == message.assignment:
                self._run.wait(self._now_s())
                self._tell(message)
                self._begin_next()
            case PartScored() if self._run is not None and self._run.task.assignment == message.assignment:
                self._tell(replace(message, seconds=self._run.scored(self._now_s())))
            case Answer() if self._run is not None and self._run.task.assignment == message.assignment:
                self._answer(message.outcome)
                self._begin_next()
            case (
                Prepared()
                | BaselineMeasured()
                | FilesCollected()
                | Exported()
                | BlocksMeasured()
                | StatisticsMissing()
                | StatisticsMerged()
                | WorkDone()
                | WorkDied()
                | Refused()
            ):
                if not isinstance(message, Refused) or message.task == type(self._special).__name__:
                    self._special = None
                self._tell(message)
                self._begin_next()
            case Unusable():  # the work it had goes to another rank
                self._run = None
                self._tell(message)

    def _tell_once(self, message: ToMaster) -> None:
        """After a restart the process says again what the master knows already."""
        if type(message).__name__ not in self._told:
            self._told.add(type(message).__name__)
            self._tell(message)

    def _answer(self, outcome: Outcome, again: bool = False, tail: str | None = None) -> None:
        run = self._run
        assert run is not None
        self._run = None
        if outcome.status != "ok":
            outcome = replace(outcome, stderr_tail=self._host.tail() if tail is None else tail)
        seconds = self._now_s() - run.started_s
        self._log.add(self._host.take_log(), self._now_s(), now=True)
        self._tell(Answer(run.task.assignment, replace(outcome, seconds=seconds, rank=self.rank), again))

    def _out_of_time(self) -> Death | None:
        now_s = self._now_s()
        if self._run is not None and (what := self._run.overdue(now_s)):
            return self._host.kill("timeout", what)
        if self._special is not None and now_s > self._special_deadline_s:
            return self._host.kill("timeout", f"it took longer than {self._preparation_s:g} s")
        return None

    def _give_up_loading(self) -> None:
        """The user's code hangs while it is imported here: the others go on without this rank."""
        self._load_deadline_s = math.inf
        death = self._host.kill("timeout", f"loading your code took longer than {self._preparation_s:g} s")
        self._tell(Unusable(_with_tail(death.reason, death.stderr_tail)))

    def _died(self, death: Death) -> None:
        self._deaths_in_a_row += 1
        if isinstance(self._special, RunWork):
            key, self._special = self._special.work.key, None
            self._log.add(self._host.take_log(), self._now_s(), now=True)
            self._tell(WorkDied(key, _with_tail(death.reason, death.stderr_tail)))
        elif self._run is not None and not self._run.is_waiting:
            built = self._run.built
            outcome = Outcome(
                cast(Status, death.status),
                model_digest=built.model_digest if built else None,
                size_bytes=built.size_bytes if built else None,
                n_quantized=built.n_quantized if built else None,
                reason=death.reason,
            )
            self._answer(outcome, again=True, tail=death.stderr_tail)
        elif self._special is not None:
            task, self._special = self._special, None
            name = TASK_NAMES[type(task)]
            text = f"{name} failed: {death.reason}"
            if isinstance(task, Prepare | MeasureBaseline):
                text += ". It runs your code: call that outside of disttune to see why"
            self._tell(Refused(type(task).__name__, _with_tail(text, death.stderr_tail), exit_code=2))
        if self._deaths_in_a_row > MAX_DEATHS_IN_A_ROW:
            text = f"the trial process cannot be kept running: {death.reason}"
            self._tell(Unusable(_with_tail(text, death.stderr_tail)))
            return
        self._restart()

    def _restart(self) -> None:
        self._host.start()
        self._equipment.hand_again()
        self._begin_next()


def _end_process(process: ProcessId) -> None:
    if process_alive(process.pid, process.started_ticks):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(process.pid, signal.SIGKILL)


def _with_tail(text: str, tail: str) -> str:
    return f"{text}\nlast lines of its output:\n{tail}" if tail.strip() else text
