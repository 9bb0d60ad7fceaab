"""The search: carries the scheduler's commands out over a transport and feeds it what comes back.

Results are on disk before they count: a commit is told, exported and finished upon only after the journal
has its result durable; handing out does not wait for that.
"""

import math
from collections import deque
from pathlib import Path
from typing import Protocol

from disttune.config.errors import DisttuneError
from disttune.runtime.listener import Listener
from disttune.runtime.messages import (
    Alive,
    Answer,
    Built,
    CancelTask,
    EvaluateModel,
    Export,
    Exported,
    RankLost,
    Refused,
    RunTask,
    SkipModel,
    StageDone,
    ToMaster,
    Unusable,
)
from disttune.runtime.records import (
    CommitRecord,
    DeadlineRecord,
    ExportRecord,
    FinishRecord,
    ProbeResultRecord,
    ProposalRecord,
    Record,
    ResultRecord,
    StageRecord,
)
from disttune.runtime.transport import Transport
from disttune.schedule.events import (
    Assign,
    Broadcast,
    Cancel,
    Command,
    Commit,
    Evaluate,
    Event,
    Finish,
    Improve,
    Interrupt,
    ModelBuilt,
    Notice,
    OpenStage,
    Propose,
    Settle,
    Skip,
    TaskDone,
    TaskFailed,
    Tick,
    WorkerJoined,
    WorkerLost,
)
from disttune.schedule.scheduler import Scheduler
from disttune.space.candidate import Candidate
from disttune.strategy.trial import Trial

SHORTEST_TIMEOUT_S = 60.0
TIMEOUT_FACTOR = 20.0  # an evaluation may take this many times the baseline's
FIRST_TIMEOUT_S = 3600.0  # of trial 0 when no baseline has been measured
CHECK_EVERY_S = 1.0


class JournalSink(Protocol):
    """Where records go; `append` returns a sequence number that `durable` reaches once it is on disk."""

    @property
    def durable(self) -> int: ...

    def append(self, record: Record) -> int: ...


class Replay(Protocol):
    """What the search asks of an earlier session, beside the scheduler's `Recording`."""

    def has_proposal(self, stage: int, index: int, task: int) -> bool: ...

    def has_commit(self, trial: int) -> bool: ...

    def has_stage(self, index: int) -> bool: ...


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
        replay: what is in the journal already.
        elapsed_s: seconds that earlier sessions used.
        lost_after_s: a rank silent for longer counts as lost.
        exported: digest of the candidate that `best_path` holds already.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        transport: Transport,
        journal: JournalSink,
        listener: Listener,
        trial_timeout_s: float | None,
        best_path: Path | None = None,
        replay: Replay | None = None,
        elapsed_s: float = 0.0,
        lost_after_s: float = math.inf,
        exported: str | None = None,
    ):
        self.scheduler = scheduler
        self.finish: Finish | None = None
        self.trial_timeout_s = trial_timeout_s
        self._transport = transport
        self._journal = journal
        self._listener = listener
        self._best_path = best_path
        self._replay = replay
        self._started_s = transport.now_s() - elapsed_s
        self._lost_after_s = lost_after_s
        self._nodes: dict[int, str] = {}
        self._joined: set[int] = set()
        self._may_join: list[int] = []
        self._heard_s: dict[int, float] = {}
        self._checked_s = 0.0
        self._pending: deque[tuple[int, Command]] = deque()  # told once the journal is durable up to there
        self._last_record = 0
        self._held: list[Assign] = []  # for rank 0, until an export that comes first has been sent
        self._wanted: Trial | None = None
        self._exporting: int | None = None
        self._exported = exported
        self._export_failed = False
        self._busy: set[int] = set()
        self._finishing: Finish | None = None

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
        self._heard_s[rank] = self._transport.now_s()
        if self.trial_timeout_s is None and self._joined:
            self._may_join.append(rank)
            return
        self._joined.add(rank)
        self._handle(WorkerJoined(rank, node, self.now_s()))

    def interrupt(self, grace_s: float) -> None:
        """End soon: hand out nothing, keep what ends within the grace time."""
        self._handle(Interrupt(self.now_s(), grace_s))

    def receive(self, source: int, message: ToMaster) -> None:
        self._heard_s[source] = self._transport.now_s()
        match message:
            case Built():
                self._handle(ModelBuilt(source, message.assignment, message.model_digest, self.now_s()))
            case Answer():
                self._answered(source, message)
            case Exported():
                self._was_exported(message)
            case Refused() if message.task == "Export":
                self._exporting = None
                self._export_failed = True
                self._listener.warned(message.message)
            case Unusable():
                self._lose(source, message.reason)
            case Alive():
                self._transport.send(source, Alive())
            case RankLost():
                self._lose(source, message.reason)
            case _:
                pass

    def poll(self) -> None:
        """Do what has become possible: tell durable commits, export, notice silence and time."""
        self._tell_durable()
        self._start_export()
        now_s = self._transport.now_s()
        if now_s - self._checked_s >= CHECK_EVERY_S:
            self._checked_s = now_s
            self._look_for_silence(now_s)
            if not self._finishing:
                n_trials = len(self.scheduler.history.trials)
                self._listener.progress(n_trials, len(self._busy), self.now_s())
        self._handle(Tick(self.now_s()))
        if self._finishing and not self._pending and self._export_settled():
            self._journal.append(
                FinishRecord(
                    t=self.now_s(), status=self._finishing.status, stop_reason=self._finishing.stop_reason
                )
            )
            self.finish = self._finishing

    def _answered(self, rank: int, message: Answer) -> None:
        self._busy.discard(rank)
        outcome = message.outcome
        if self.trial_timeout_s is None and not message.again:
            is_ok = outcome.status == "ok"
            self._set_deadline(default_trial_timeout_s(outcome.evaluation_s) if is_ok else FIRST_TIMEOUT_S)
        event = TaskFailed if message.again else TaskDone
        self._handle(event(rank, message.assignment, outcome, self.now_s()))

    def _set_deadline(self, timeout_s: float) -> None:
        self.trial_timeout_s = timeout_s
        self._append(DeadlineRecord(t=self.now_s(), trial_timeout_s=timeout_s))
        waiting, self._may_join = self._may_join, []
        for rank in waiting:
            self.join(rank, self._nodes[rank])

    def _lose(self, rank: int, why: str) -> None:
        self._heard_s.pop(rank, None)
        if rank in self._may_join:
            self._may_join.remove(rank)
        if rank not in self._joined:
            return
        self._joined.discard(rank)
        self._busy.discard(rank)
        self._listener.warned(f"rank {rank} takes no further part: {why}. Its work goes to others.")
        self._handle(WorkerLost(rank, self.now_s()))
        if not self._joined and not self._may_join:
            raise DisttuneError("no rank is left that can run trials; run the same command again to go on")

    def _look_for_silence(self, now_s: float) -> None:
        silent = [r for r, heard_s in self._heard_s.items() if now_s - heard_s > self._lost_after_s]
        for rank in silent:
            self._lose(rank, f"nothing was heard of it for {self._lost_after_s:g} s")

    # Out

    def _handle(self, event: Event) -> None:
        for command in self.scheduler.handle(event):
            self._execute(command)

    def _execute(self, command: Command) -> None:
        match command:
            case Assign():
                self._assign(command)
            case Evaluate():
                self._transport.send(command.rank, EvaluateModel(command.assignment))
            case Skip():
                self._busy.discard(command.rank)
                self._transport.send(command.rank, SkipModel(command.assignment))
            case Cancel():
                self._cancel(command)
            case Propose():
                self._propose(command)
            case Settle():
                self._settle(command)
            case OpenStage():
                if not (self._replay and self._replay.has_stage(command.index)):
                    stage = command.stage
                    self._append(
                        StageRecord(
                            t=self.now_s(),
                            index=command.index,
                            name=stage.name,
                            needs=stage.needs,
                            goal_stops=stage.goal_stops,
                        )
                    )
                self._pending.append((self._last_record, command))
            case Broadcast():
                self._broadcast(command)
            case _:
                self._pending.append((self._last_record, command))

    def _append(self, record: Record) -> None:
        self._last_record = self._journal.append(record)

    def _assign(self, command: Assign) -> None:
        self._busy.add(command.rank)
        if command.rank == 0 and any(isinstance(c, Improve) for _, c in self._pending):
            self._held.append(command)
            return
        timeout_s = self.trial_timeout_s if self.trial_timeout_s is not None else FIRST_TIMEOUT_S
        self._transport.send(command.rank, RunTask(command.assignment, command.task, command.item, timeout_s))

    def _cancel(self, command: Cancel) -> None:
        self._busy.discard(command.rank)
        held = [a for a in self._held if a.assignment == command.assignment]
        if held:
            self._held.remove(held[0])
        else:
            self._transport.send(command.rank, CancelTask(command.assignment))

    def _propose(self, command: Propose) -> None:
        if not isinstance(command.item, Candidate):
            return  # a probe is found again by its place in the stage
        if self._replay and self._replay.has_proposal(command.stage, command.index, command.task):
            return
        self._append(
            ProposalRecord(
                t=self.now_s(),
                stage=command.stage,
                item=command.index,
                trial=command.task,
                digest=command.item.digest,
                candidate=command.item.to_dict(),
            )
        )

    def _settle(self, command: Settle) -> None:
        outcome, item = command.outcome, command.item
        if isinstance(item, Candidate):
            self._append(ResultRecord(
                t=self.now_s(), trial=command.task, digest=item.digest, model_digest=outcome.model_digest,
                status=outcome.status, values=outcome.values, size_bytes=outcome.size_bytes,
                n_quantized=outcome.n_quantized, seconds=outcome.seconds, evaluation_s=outcome.evaluation_s,
                rank=outcome.rank, reason=outcome.reason, stderr_tail=outcome.stderr_tail,
            ))  # fmt: skip
        else:
            self._append(ProbeResultRecord(
                t=self.now_s(), stage=command.stage, item=command.index, probe={"kind": item.kind},
                status=outcome.status, value=outcome.value, seconds=outcome.seconds, rank=outcome.rank,
                reason=outcome.reason,
            ))  # fmt: skip

    def _broadcast(self, command: Broadcast) -> None:
        best = self.scheduler.history.best
        message = StageDone(
            command.index,
            command.result.name,
            best.number if best else None,
            best.metric if best else None,
            command.result.goal_met,
        )
        for rank in self._nodes:
            self._transport.send(rank, message)

    def _tell_durable(self) -> None:
        durable = self._journal.durable
        while self._pending and self._pending[0][0] <= durable:
            _, command = self._pending.popleft()
            self._tell(command)
        if not any(isinstance(c, Improve) for _, c in self._pending):
            self._start_export()
            held, self._held = self._held, []
            for assign in held:
                self._assign(assign)

    def _tell(self, command: Command) -> None:
        match command:
            case Commit():
                self._commit(command)
            case Improve():
                self._wanted = command.trial
            case OpenStage():
                self._listener.stage_opened(command.stage.name)
            case Notice():
                self._listener.warned(command.text)
            case Finish():
                self._finishing = command
            case _:
                pass

    def _commit(self, command: Commit) -> None:
        trial = command.trial
        if not (self._replay and self._replay.has_commit(trial.number)):
            self._journal.append(
                CommitRecord(
                    t=self.now_s(),
                    trial=trial.number,
                    duplicate_of=trial.duplicate_of,
                    meets_goal=trial.meets_goal,
                    best=command.best.number if command.best else None,
                )
            )
        self._listener.committed(trial, command.best)

    # Export

    def _start_export(self) -> None:
        trial = self._wanted
        if trial is None or self._best_path is None or self._exporting is not None or self._export_failed:
            return
        if trial.candidate.digest != self._exported:
            self._exporting = trial.number
            self._transport.send(0, Export(trial.number, trial.candidate, str(self._best_path)))

    def _was_exported(self, message: Exported) -> None:
        assert self._wanted is not None
        self._exporting = None
        trial = self.scheduler.history.row(message.trial)
        self._exported = trial.candidate.digest
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

    def _export_settled(self) -> bool:
        if self._wanted is None or self._best_path is None or self._export_failed:
            return True
        return self._exporting is None and self._wanted.candidate.digest == self._exported
