"""Which record of the journal a command of the scheduler makes, if any.

Pure. What an earlier session has recorded is not recorded again.
"""

from typing import Protocol

from disttune.runtime.records import (
    CommitRecord,
    LatencyRecord,
    ProbeResultRecord,
    ProposalRecord,
    Record,
    ResultRecord,
    StageRecord,
)
from disttune.schedule.events import Command, Commit, OpenStage, Propose, Settle
from disttune.schedule.latency_window import KIND
from disttune.space.candidate import Candidate
from disttune.strategy.stage import Probe


class Replay(Protocol):
    """What the journal holds already."""

    def has_stage(self, index: int) -> bool: ...

    def has_proposal(self, stage: int, index: int, task: int) -> bool: ...

    def has_commit(self, trial: int) -> bool: ...

    def was_cancelled(self, candidate: Candidate) -> bool: ...


class NothingRecorded:
    """The replay of a new job."""

    def has_stage(self, index: int) -> bool:  # noqa: ARG002
        return False

    def has_proposal(self, stage: int, index: int, task: int) -> bool:  # noqa: ARG002
        return False

    def has_commit(self, trial: int) -> bool:  # noqa: ARG002
        return False

    def was_cancelled(self, candidate: Candidate) -> bool:  # noqa: ARG002
        return False


def command_record(command: Command, t: float, replay: Replay) -> Record | None:
    """The record of a command; None when it makes none or the journal has it.

    Args:
        command: of the scheduler.
        t: job seconds.
        replay: what the journal holds.
    """
    match command:
        case OpenStage() if not replay.has_stage(command.index):
            stage = command.stage
            return StageRecord(
                t=t,
                index=command.index,
                name=stage.name,
                needs=stage.needs,
                goal_stops=stage.goal_stops,
                n_items=len(stage.items) if isinstance(stage.items, list | tuple) else None,
            )
        case Propose(item=Candidate()) if not replay.has_proposal(command.stage, command.index, command.task):
            return _proposal(command, t)
        case Settle(item=Candidate()):
            return _result(command, t)
        case Settle(item=Probe(kind=kind)) if kind == KIND:
            return _latency(command, t)
        case Settle():
            return _probe_result(command, t)
        case Commit() if command.trial.cancelled:
            return None if replay.was_cancelled(command.trial.candidate) else _cancelled(command, t)
        case Commit() if not replay.has_commit(command.trial.number):
            trial = command.trial
            return CommitRecord(
                t=t,
                trial=trial.number,
                duplicate_of=trial.duplicate_of,
                meets_goal=trial.meets_goal,
                best=command.best.number if command.best else None,
            )
        case _:
            return None


def _proposal(command: Propose, t: float) -> ProposalRecord:
    candidate = command.item
    assert isinstance(candidate, Candidate)
    return ProposalRecord(
        t=t,
        stage=command.stage,
        item=command.index,
        trial=command.task,
        digest=candidate.digest,
        candidate=candidate.to_dict(),
    )


def _result(command: Settle, t: float) -> ResultRecord:
    outcome, candidate = command.outcome, command.item
    assert isinstance(candidate, Candidate)
    return ResultRecord(
        t=t,
        trial=command.task,
        digest=candidate.digest,
        model_digest=outcome.model_digest,
        status=outcome.status,
        values=outcome.values,
        size_bytes=outcome.size_bytes,
        n_quantized=outcome.n_quantized,
        seconds=outcome.seconds,
        evaluation_s=outcome.evaluation_s,
        rank=outcome.rank,
        reason=outcome.reason,
        stderr_tail=outcome.stderr_tail,
        packed=outcome.packed,
        n_ranks=outcome.n_ranks,
        bounds=outcome.bounds,
    )


def _probe_result(command: Settle, t: float) -> ProbeResultRecord:
    outcome, probe = command.outcome, command.item
    assert not isinstance(probe, Candidate)
    return ProbeResultRecord(
        t=t,
        stage=command.stage,
        item=command.index,
        probe={"kind": probe.kind, "arguments": dict(probe.arguments)},
        status=outcome.status,
        value=outcome.value,
        seconds=outcome.seconds,
        rank=outcome.rank,
        reason=outcome.reason,
    )


def _latency(command: Settle, t: float) -> LatencyRecord:
    outcome, probe = command.outcome, command.item
    assert isinstance(probe, Probe)
    assert probe.candidate is not None
    return LatencyRecord(
        t=t,
        trial=probe.arguments["trial"],
        digest=probe.candidate.digest,
        status=outcome.status,
        value=outcome.value,
        seconds=outcome.seconds,
        rank=outcome.rank,
        reason=outcome.reason,
    )


def _cancelled(command: Commit, t: float) -> ResultRecord:
    """No outcome: a resume with more time runs it again."""
    trial = command.trial
    return ResultRecord(
        t=t,
        trial=trial.number,
        digest=trial.candidate.digest,
        model_digest=None,
        status=trial.status,
        values=None,
        size_bytes=None,
        n_quantized=None,
        seconds=trial.seconds,
        evaluation_s=0.0,
        rank=trial.rank,
        reason=trial.reason,
        cancelled=True,
    )
