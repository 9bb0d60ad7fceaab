"""What a journal tells the scheduler and the search of a resumed job: proposals, outcomes, what was said.

Pure. Outcomes are found by the candidate's digest: equal choices have equal results.
"""

from collections.abc import Iterable, Sequence

from disttune.config.errors import InputError, JournalError
from disttune.runtime.records import (
    BaselineRecord,
    CommitRecord,
    DeadlineRecord,
    ExportRecord,
    LatencyRecord,
    ProbeResultRecord,
    ProposalRecord,
    Record,
    ResultRecord,
    StageRecord,
)
from disttune.schedule.outcome import Outcome
from disttune.space.candidate import Candidate

UNREADABLE = (AttributeError, InputError, KeyError, TypeError, ValueError)  # from what is no candidate


class JournalRecording:
    """Results of earlier sessions.

    Args:
        records: of the journal, in order; a later record about the same thing holds.
        ops: names of the space's ops, in order.
    """

    def __init__(self, records: Iterable[Record], ops: Sequence[str] = ()):
        self.baseline: BaselineRecord | None = None
        self.deadline: DeadlineRecord | None = None
        self.exported: ExportRecord | None = None
        self._ops = ops
        self._stages: set[int] = set()
        self._proposals: dict[tuple[int, int], ProposalRecord] = {}
        self._results: dict[str, ResultRecord] = {}
        self._probes: dict[tuple[int, int], ProbeResultRecord] = {}
        self._latencies: dict[str, LatencyRecord] = {}
        self._cancelled: set[str] = set()
        self._commits: set[int] = set()
        for record in records:
            self._take(record)

    @property
    def n_results(self) -> int:
        """Trials that need not run again."""
        return len(self._results)

    @property
    def exported_bytes(self) -> int | None:
        """How large the file with the best model was when it was written; None where nothing tells."""
        result = self._results.get(self.exported.digest) if self.exported else None
        return result.size_bytes if result else None

    def proposal(self, stage: int, index: int) -> Candidate | None:
        """The candidate that was proposed there.

        Raises:
            JournalError: it cannot be read, or is not the one its digest was made of.
        """
        record = self._proposals.get((stage, index))
        if record is None:
            return None
        try:
            candidate = Candidate.from_dict(record.candidate, self._ops)
            is_itself = candidate.digest == record.digest
        except UNREADABLE as error:
            raise _wrong(record, f"a candidate that cannot be read ({error!r})") from None
        if not is_itself:
            raise _wrong(record, "a candidate that is not the one its digest was made of")
        return candidate

    def outcome(self, candidate: Candidate) -> Outcome | None:
        record = self._results.get(candidate.digest)
        if record is None:
            return None
        return Outcome(
            record.status,
            record.values,
            model_digest=record.model_digest,
            size_bytes=record.size_bytes,
            n_quantized=record.n_quantized,
            seconds=record.seconds,
            evaluation_s=record.evaluation_s,
            rank=record.rank,
            reason=record.reason,
            stderr_tail=record.stderr_tail,
            packed=record.packed,
            n_ranks=record.n_ranks,
            bounds=record.bounds,
        )

    def was_cancelled(self, candidate: Candidate) -> bool:
        return candidate.digest in self._cancelled

    def probe(self, stage: int, index: int) -> Outcome | None:
        record = self._probes.get((stage, index))
        if record is None:
            return None
        return Outcome(
            record.status, value=record.value, seconds=record.seconds, rank=record.rank, reason=record.reason
        )

    def latency(self, candidate: Candidate) -> Outcome | None:
        record = self._latencies.get(candidate.digest)
        if record is None:
            return None
        return Outcome(
            record.status, value=record.value, seconds=record.seconds, rank=record.rank, reason=record.reason
        )

    def has_stage(self, index: int) -> bool:
        return index in self._stages

    def has_proposal(self, stage: int, index: int, task: int) -> bool:
        record = self._proposals.get((stage, index))
        return record is not None and record.trial == task

    def has_commit(self, trial: int) -> bool:
        return trial in self._commits

    def _take(self, record: Record) -> None:
        match record:
            case BaselineRecord():
                self.baseline = record
            case DeadlineRecord():
                self.deadline = record
            case ExportRecord():
                self.exported = record
            case StageRecord():
                self._stages.add(record.index)
            case ProposalRecord():
                self._proposals[record.stage, record.item] = record
            case ResultRecord() if record.cancelled:
                self._cancelled.add(record.digest)
            case ResultRecord():
                self._results[record.digest] = record
            case ProbeResultRecord():
                self._probes[record.stage, record.item] = record
            case LatencyRecord():
                self._latencies[record.digest] = record
            case CommitRecord():
                self._commits.add(record.trial)
            case _:
                pass


def _wrong(record: ProposalRecord, what: str) -> JournalError:
    return JournalError(
        f"journal.jsonl: trial {record.trial} has {what}. Restore the file from a copy, "
        "or start anew (--fresh, fresh=True)."
    )
