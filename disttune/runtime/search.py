"""The search: carries the scheduler's commands out over a transport and feeds it what comes back.

Results are on disk before they count: a commit is told, exported and finished upon only after the journal
has its result durable; handing out does not wait for that.
"""

import math
from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from disttune.config.errors import DisttuneError, InputError
from disttune.runtime.command_record import NothingRecorded, Replay, command_record
from disttune.runtime.exporter import Exporter, is_quick
from disttune.runtime.listener import Listener
from disttune.runtime.messages import (
    Answer,
    Built,
    CancelTask,
    CombineScores,
    EvaluateModel,
    Exported,
    PartScored,
    RankLost,
    Refused,
    RunTask,
    SkipModel,
    ToMaster,
    Unusable,
)
from disttune.runtime.part_scores import PartScores
from disttune.runtime.records import DeadlineRecord, ExportRecord, FinishRecord, Record
from disttune.runtime.transport import Transport
from disttune.runtime.works import Works
from disttune.schedule.events import (
    Assign,
    Cancel,
    Combine,
    Command,
    Commit,
    Evaluate,
    Event,
    Finish,
    Improve,
    Interrupt,
    ModelBuilt,
    Note,
    Notice,
    OpenStage,
    PartDone,
    Propose,
    Settle,
    Skip,
    TaskDone,
    TaskFailed,
    Tick,
    WorkerJoined,
    WorkerLost,
)
from disttune.schedule.latency_window import KIND
from disttune.schedule.outcome import Outcome
from disttune.schedule.scheduler import Scheduler
from disttune.strategy.stage import Probe

SHORTEST_TIMEOUT_S = 60.0
TIMEOUT_FACTOR = 20.0  # an evaluation may take this many times the baseline's
FIRST_TIMEOUT_S = 3600.0  # of trial 0 when no baseline has been measured
CHECK_EVERY_S = 1.0
TICK_EVERY_S = 0.01


class JournalSink(Protocol):
    """Where records go; `append` returns a sequence number that `durable` reaches once it is on disk."""

    @property
    def durable(self) -> int: ...

    def append(self, record: Record) -> int: ...


def default_trial_timeout_s(evaluation_s: float) -> float:
    """Deadline of an evaluation when the user gives none."""
    return max(SHORTEST_TIMEOUT_S, TIMEOUT_FACTOR * evaluation_s)


class Search:
    """The master's loop body: `receive` messages, `poll` often, until `done`.

    Args:
        scheduler: decides.
        transport: to the agents.
        journal: where records go.
        listener: is told.
        trial_timeout_s: of an evaluation; None until trial 0 has shown how long one takes.
        best_path: file for the best model; None keeps no file (simulation).
        second_path: where the best model goes in the end when it cannot be written there.
        replay: what is in the journal already.
        elapsed_s: seconds that earlier sessions used.
        exported: digest of the candidate that `best_path` holds already.
        works: what candidates need before they can be built; None where nothing is built (simulation).
    """

    def __init__(
        self,
        scheduler: Scheduler,
        transport: Transport,
        journal: JournalSink,
        listener: Listener,
        trial_timeout_s: float | None,
        best_path: Path | None = None,
        second_path: Path | None = None,
        replay: Replay | None = None,
        elapsed_s: float = 0.0,
        exported: str | None = None,
        works: Works | None = None,
    ):
        self.scheduler = scheduler
        self.finish: Finish | None = None
        self.trial_timeout_s = trial_timeout_s
        self._transport = transport
        self._journal = journal
        self._listener = listener
        self._second_path = second_path
        self._exporter = Exporter(best_path, exported, lambda message: transport.send(0, message))
        self._replay = replay or NothingRecorded()
        self._started_s = transport.now_s() - elapsed_s
        self._works = works or Works({}, transport.send, listener.phase, listener.warned)
        self._nodes: dict[int, str] = {}
        self._joined: set[int] = set()
        self._lost: set[int] = set()
        self._may_join: list[int] = []
        self._checked_s = 0.0
        self._ticked_s = -TICK_EVERY_S
        self._later: deque[tuple[int, Command]] = deque()  # told once the journal is durable up to there
        self._last_record = 0
        self._held: list[Assign] = []  # for rank 0, until an export that comes first has been sent
        self._busy: dict[int, Assign] = {}  # rank to what it runs
        self._parts = PartScores()
        self._timed: set[int] = set()  # ranks whose last item measures latency, alone on its node
        self._finishing: Finish | None = None
        self._is_interrupted = False
        self._target_check = ""  # as last told

    @property
    def done(self) -> bool:
        return self.finish is not None

    def now_s(self) -> float:
        """Seconds of the job, over all sessions."""
        return self._transport.now_s() - self._started_s

    # In

    def start(self) -> None:
        """Replay what is recorded and draw the first items."""
        self._handle(Tick(self.now_s()))

    def join(self, rank: int, node: str) -> None:
        """A rank is ready. Until an evaluation's deadline is known only the first one gets work."""
        self._nodes[rank] = node
        if self.trial_timeout_s is None and self._joined:
            self._may_join.append(rank)
            return
        self._joined.add(rank)
        self._handle(WorkerJoined(rank, node, self.now_s()))

    def interrupt(self, grace_s: float) -> None:
        """End soon: hand out nothing, keep what ends within the grace time."""
        self._is_interrupted = True
        self._handle(Interrupt(self.now_s(), grace_s))

    def receive(self, source: int, message: ToMaster) -> None:
        match message:
            case Built():
                self._handle(ModelBuilt(source, message.assignment, message.model_digest, self.now_s()))
            case PartScored():
                self._part_scored(source, message)
            case Answer():
                self._answered(source, message)
            case Exported():
                self._exported(message)
            case Refused() if message.task == "Export":
                self._exporter.failed(message.message)
                self._listener.warned(message.message)
            case Unusable():
                self._lose(source, message.reason)
            case RankLost():
                self._lose(source, message.reason)
            case _ if source not in self._lost:
                self._works.receive(source, message)
            case _:
                pass

    def poll(self) -> None:
        """Do what has become possible: tell durable commits, export, notice time."""
        self._tell_durable()
        self._hand_out_works()
        now_s = self._transport.now_s()
        if now_s - self._checked_s >= CHECK_EVERY_S:
            self._checked_s = now_s
            if not self._finishing:
                n_trials = len(self.scheduler.history.trials)
                self._works.report(now_s)
                self._listener.progress(n_trials, len(self._busy), self.now_s())
        if now_s - self._ticked_s >= TICK_EVERY_S:  # every message brings the time, too
            self._ticked_s = now_s
            self._handle(Tick(self.now_s()))
        is_interrupted = self._is_interrupted or (self._finishing and self._finishing.status == "interrupted")
        if self._finishing and is_interrupted and self._works.export_waits:
            self._works.drop_export()
            self._exporter.give_up()
            reason = "signal" if self._is_interrupted else self._finishing.stop_reason
            self._finishing = Finish("interrupted", reason)
        if self._finishing and not self._later and self._exporter.settled:
            if self._exporter.failure and self._exporter.fall_back(self._second_path):
                return
            if self._exporter.failure:
                raise InputError(self._exporter.failure)
            self._journal.append(
                FinishRecord(
                    t=self.now_s(), status=self._finishing.status, stop_reason=self._finishing.stop_reason
                )
            )
            self.finish = self._finishing

    def _hand_out_works(self) -> None:
        """Use ranks that wait for works or have nothing else to do."""
        if self._works.take_export():
            self._exporter.again()
        if not self._works.wait_for_hands:  # nearly always: what follows looks at every rank
            return
        waiting = self._works.waiting
        quiet = {self._nodes[rank] for rank in (self._timed & self._busy.keys()) - waiting}
        self._works.hand_out(
            rank
            for rank, node in self._nodes.items()
            if rank not in self._lost and node not in quiet and (rank in waiting or rank not in self._busy)
        )

    def _answered(self, rank: int, message: Answer) -> None:
        outcome, assign = message.outcome, self._busy.get(rank)
        if assign is not None and assign.assignment == message.assignment:  # else it was cancelled meanwhile
            del self._busy[rank]
            seconds, evaluation_s = self._parts.drop(assign.task)
            outcome = replace(
                outcome, seconds=outcome.seconds + seconds, evaluation_s=outcome.evaluation_s + evaluation_s
            )
        if self.trial_timeout_s is None and not message.again:
            is_ok = outcome.status == "ok"
            self._set_deadline(default_trial_timeout_s(outcome.evaluation_s) if is_ok else FIRST_TIMEOUT_S)
        event = TaskFailed if message.again else TaskDone
        self._handle(event(rank, message.assignment, outcome, self.now_s()))

    def _part_scored(self, rank: int, part: PartScored) -> None:
        assign = self._busy.get(rank)
        if assign is None or assign.assignment != part.assignment:
            return
        limit_s = self.trial_timeout_s
        if self._parts.add(assign.task, part) > (FIRST_TIMEOUT_S if limit_s is None else limit_s):
            self._out_of_time(rank, assign)
            return
        overhead_s = None if part.opening_s is None else part.seconds - part.evaluation_s + part.opening_s
        self._handle(PartDone(rank, part.assignment, part.evaluation_s, overhead_s, self.now_s()))

    def _out_of_time(self, rank: int, assign: Assign) -> None:
        """The parts of a trial may take together what it may take in one piece."""
        del self._busy[rank]
        self._transport.send(rank, SkipModel(assign.assignment))
        reason = f"its parts took longer than {self.trial_timeout_s:g} s together (tuning.trial_timeout)"
        outcome = Outcome("timeout", rank=rank, reason=reason)
        self._handle(TaskFailed(rank, assign.assignment, outcome, self.now_s()))

    def _set_deadline(self, timeout_s: float) -> None:
        self.trial_timeout_s = timeout_s
        self._append(DeadlineRecord(t=self.now_s(), trial_timeout_s=timeout_s))
        waiting, self._may_join = self._may_join, []
        for rank in waiting:
            self.join(rank, self._nodes[rank])

    def _lose(self, rank: int, why: str) -> None:
        if rank in self._may_join:
            self._may_join.remove(rank)
        self._lost.add(rank)
        self._works.lose(rank)
        self._listener.warned(f"rank {rank} takes no further part: {why}. Its work goes to others.")
        if rank not in self._joined:
            return
        self._joined.discard(rank)
        self._busy.pop(rank, None)
        self._handle(WorkerLost(rank, self.now_s()))
        if not self._joined and self._may_join:  # the next one is to show how long an evaluation takes
            following = self._may_join.pop(0)
            self.join(following, self._nodes[following])
        if not self._joined:
            raise DisttuneError("no rank is left that can run trials; run the same command again to go on")

    # Out

    def _handle(self, event: Event) -> None:
        for command in self.scheduler.handle(event):
            self._execute(command)

    def _execute(self, command: Command) -> None:
        match command:
            case Assign():
                self._assign(command)
            case Evaluate():
                self._transport.send(
                    command.rank,
                    EvaluateModel(command.assignment, command.packed, command.blocks, command.stop),
                )
            case Combine():
                scores = self._parts.all_of(self._busy[command.rank].task)
                self._transport.send(command.rank, CombineScores(command.assignment, command.packed, scores))
            case Skip():
                self._busy.pop(command.rank, None)
                self._transport.send(command.rank, SkipModel(command.assignment))
            case Cancel():
                self._cancel(command)
            case Propose() | Settle():
                self._parts.drop(command.task)  # a number may be given again after its item was given up
                self._record(command)
            case OpenStage():
                self._record(command)
                self._tell_later(command)
            case _:
                self._tell_later(command)

    def _record(self, command: Command) -> None:
        record = command_record(command, self.now_s(), self._replay)
        if record is not None:
            self._append(record)

    def _append(self, record: Record) -> None:
        self._last_record = self._journal.append(record)

    def _assign(self, command: Assign) -> None:
        self._busy[command.rank] = command
        is_timed = isinstance(command.item, Probe) and command.item.kind == KIND
        (self._timed.add if is_timed else self._timed.discard)(command.rank)
        if command.rank == 0 and self._improves_soon():
            self._held.append(command)
            return
        timeout_s = self.trial_timeout_s if self.trial_timeout_s is not None else FIRST_TIMEOUT_S
        self._transport.send(command.rank, RunTask(command.assignment, command.task, command.item, timeout_s))

    def _improves_soon(self) -> bool:
        """Whether an export is about to be asked for, which goes before rank 0's next trial."""
        return any(isinstance(c, Improve) and not is_quick(c.trial) for _, c in self._later)

    def _cancel(self, command: Cancel) -> None:
        self._busy.pop(command.rank, None)
        held = [a for a in self._held if a.assignment == command.assignment]
        if held:
            self._held.remove(held[0])
        else:
            self._transport.send(command.rank, CancelTask(command.assignment))
            self._works.withdraw(command.rank, command.assignment)

    # Telling, once the journal is durable

    def _tell_later(self, command: Command) -> None:
        self._later.append((self._last_record, command))

    def _tell_durable(self) -> None:
        durable = self._journal.durable
        while self._later and self._later[0][0] <= durable:
            self._tell(self._later.popleft()[1])
        self._exporter.start(math.inf if self._finishing else self.now_s())
        if self._held and not self._improves_soon():
            held, self._held = self._held, []
            for assign in held:
                self._assign(assign)

    def _tell(self, command: Command) -> None:
        match command:
            case Commit():
                self._record(command)
                self._listener.committed(command.trial, command.best)
            case Improve():
                self._exporter.want(command.trial, self.now_s())
            case OpenStage():
                self._listener.stage_opened(command.stage.name)
            case Notice():
                self._listener.warned(command.text)
            case Note():
                self._listener.noted(command.text)
            case Finish():
                self._finishing = command
                self._works.stop()
            case _:
                pass

    def _exported(self, message: Exported) -> None:
        trial = self._exporter.done(message)
        if message.target_check != self._target_check:
            self._target_check = message.target_check
            tell = self._listener.noted if message.fits else self._listener.warned
            tell(f"{Path(message.path).name}: {message.target_check}")
        if message.model_digest != trial.model_digest:
            self._listener.warned(
                f"trial {trial.number} was built again for export and came out different: quantizing is not "
                "deterministic on this machine; the exported model may have another metric"
            )
        self._append(
            ExportRecord(
                t=self.now_s(),
                trial=trial.number,
                digest=trial.candidate.digest,
                model_digest=message.model_digest,
                file=Path(message.path).name,
            )
        )
