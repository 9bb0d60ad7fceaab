"""A journal as a job that can be run again in simulation: its stages, items and how long each took.

Pure. The records may be anyone's: nothing of them is run, and what does not fit is said with its trial. What
was proposed but never measured is left out.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from statistics import mean, median
from typing import Any, TypeVar

from disttune.config.errors import JournalError
from disttune.config.schemes import OpConfig
from disttune.runtime.journal import JournalContents
from disttune.runtime.recording import UNREADABLE
from disttune.runtime.records import (
    BaselineRecord,
    CommitRecord,
    FinishRecord,
    JobRecord,
    LatencyRecord,
    ProbeResultRecord,
    ProposalRecord,
    Record,
    ResultRecord,
    SessionRecord,
    StageRecord,
)
from disttune.schedule.recorded_job import RECORDED, RecordedJob, RecordedRun, RecordedStage
from disttune.schedule.splitting import NO_SPLITTING, Splitting
from disttune.space.candidate import Candidate
from disttune.strategy.stage import Item, Probe

R = TypeVar("R", bound=Record)
ENDS_AT_A_TRIAL = ("goal", "find_n", "patience")  # stop reasons that one commit brings about
MEASURED = (ResultRecord, ProbeResultRecord, LatencyRecord)


def recorded_job(contents: JournalContents, path: Path) -> RecordedJob:
    """Read a job out of a journal.

    Args:
        contents: of the journal, finished or not.
        path: for messages.
    Raises:
        JournalError: no trial was measured, or a record does not fit the others.
    """
    return _Reader(contents.records, path).job()


class _Reader:
    def __init__(self, records: Sequence[Record], path: Path):
        self._records = records
        self._path = path
        self._results: dict[str, ResultRecord] = {}
        self._n_results: Counter[str] = Counter()
        self._meets_goal: set[str] = set()
        self._last_commit: str | None = None
        self._read_results()

    def job(self) -> RecordedJob:
        if not self._results:
            raise JournalError(
                f"{self._path}: no trial has been measured yet, so there is nothing to simulate. "
                "Run the job for a while, on any number of ranks."
            )
        last_session = list(self._sessions())[-1]
        stop_reason = next((r.stop_reason for r in last_session if isinstance(r, FinishRecord)), "")
        stages, probes = self._stages()
        first = next(iter(self._of(SessionRecord)), None)
        return RecordedJob(
            stages=stages,
            trials=self._trials(),
            probes=tuple(RecordedRun(r.status, self._seconds(r)) for r in probes),
            latencies_s={r.digest: self._seconds(r) for r in self._of(LatencyRecord)},
            stop_reason=stop_reason,
            stopped_by=self._last_commit if stop_reason in ENDS_AT_A_TRIAL else None,
            stop_at=self._stop_at(stop_reason),
            latency_decides=_counts_latency(self._fingerprint.get("tuning.objective")),
            startup_s=self._startup_s(),
            closing_s=self._closing_s(),
            handover_s=self._handover_s(),
            splitting=self._splitting(),
            n_ranks=max(1, first.n_ranks) if first else 1,
            n_nodes=max(1, len(first.hosts)) if first else 1,
        )

    # What was done

    def _read_results(self) -> None:
        digests: dict[int, str] = {}
        for record in self._records:
            if isinstance(record, ResultRecord) and not record.cancelled:
                self._results[record.digest] = record
                self._n_results[record.digest] += 1
                digests[record.trial] = record.digest
            elif isinstance(record, CommitRecord) and record.duplicate_of is None and record.trial in digests:
                self._last_commit = digests[record.trial]
                if record.meets_goal:
                    self._meets_goal.add(self._last_commit)

    def _trials(self) -> dict[str, RecordedRun]:
        """By digest. One whose model was known was not evaluated: it would take what that model took."""
        results = self._results.values()
        evaluated = {r.model_digest: r.evaluation_s for r in results if r.model_digest and r.evaluation_s > 0}
        build_s = [self._build_s(r) for r in results if r.seconds > 0]
        usual_s = median(build_s) if build_s else 0.0
        return {
            digest: RecordedRun(
                r.status,
                self._build_s(r) if r.seconds > 0 else usual_s,
                r.evaluation_s or evaluated.get(r.model_digest or "", 0.0),
                r.model_digest,
                digest in self._meets_goal,
                self._n_results[digest] > 1 and r.packed,
            )
            for digest, r in self._results.items()
        }

    def _build_s(self, record: ResultRecord) -> float:
        if record.evaluation_s < 0:
            raise self._wrong(record, f"an evaluation that took {record.evaluation_s:g} s")
        return max(0.0, self._seconds(record) - record.evaluation_s) / _hands(record)

    def _seconds(self, record: ResultRecord | ProbeResultRecord | LatencyRecord) -> float:
        if record.seconds < 0:
            raise self._wrong(record, f"{record.seconds:g} s")
        return record.seconds

    def _stages(self) -> tuple[tuple[RecordedStage, ...], list[ProbeResultRecord]]:
        items: dict[int, dict[int, Item]] = defaultdict(dict)
        for proposal in self._of(ProposalRecord):
            if proposal.digest in self._results:
                items[proposal.stage][proposal.item] = self._candidate(proposal)
        probes: list[ProbeResultRecord] = []
        for probe in self._of(ProbeResultRecord):
            items[probe.stage][probe.item] = Probe(RECORDED, {"place": len(probes)})
            probes.append(probe)
        stages = {r.index: r for r in self._of(StageRecord)}
        unknown = sorted(items.keys() - stages.keys())
        if unknown:
            raise JournalError(f"{self._path}: it has results of stage {unknown[0]}, but no such stage")
        return tuple(
            RecordedStage(
                r.name, tuple(item for _, item in sorted(items[index].items())), r.goal_stops, r.n_items
            )
            for index, r in sorted(stages.items())
            if items[index]
        ), probes

    @cached_property
    def _ops(self) -> tuple[str, ...]:
        named = (p.candidate.get("exceptions") for p in self._of(ProposalRecord))
        return tuple(dict.fromkeys(op for names in named if isinstance(names, dict) for op in names))

    def _candidate(self, record: ProposalRecord) -> Candidate:
        """The candidate with the ops that any candidate names: those of the model are not recorded."""
        try:
            choice = record.candidate
            exceptions = tuple((op, OpConfig.from_dict(c)) for op, c in choice.get("exceptions", {}).items())
            recipes = tuple(sorted(choice.get("recipes", {}).items()))
            candidate = Candidate(self._ops, OpConfig.from_dict(choice["default"]), exceptions, recipes)
            digest = candidate.digest
        except UNREADABLE as error:
            raise self._wrong(record, f"a candidate that cannot be read ({error!r})") from None
        if digest != record.digest:
            raise self._wrong(record, "a candidate that is not the one its digest was made of")
        return candidate

    # What it took besides

    def _startup_s(self) -> float:
        """Until the first trial or probe began."""
        for session in self._sessions():
            began = [r.t - self._seconds(r) / _hands(r) for r in session if isinstance(r, MEASURED)]
            if began:
                opened = next((r.t for r in session if isinstance(r, SessionRecord)), 0.0)
                return max(0.0, min(began) - opened)
        return 0.0

    def _closing_s(self) -> float:
        """From the last outcome to the end, where the recorded run came to one."""
        ends = self._of(FinishRecord)
        measured = [r.t for r in self._records if isinstance(r, MEASURED)]
        return max(0.0, ends[-1].t - measured[-1]) if ends and measured else 0.0

    def _handover_s(self) -> float:
        """Between two outcomes of a rank, beside the seconds of the second.

        The mean where there is one rank, which never waits for others; else the median.
        """
        gaps = []
        for session in self._sessions():
            ended: dict[int, float] = {}
            for r in session:
                if isinstance(r, MEASURED):
                    if r.rank in ended and r.seconds > 0 and _hands(r) == 1:
                        gaps.append(max(0.0, r.t - ended[r.rank] - r.seconds))
                    ended[r.rank] = r.t
        is_alone = all(s.n_ranks == 1 for s in self._of(SessionRecord))
        return (mean if is_alone else median)(gaps) if gaps else 0.0

    def _splitting(self) -> Splitting:
        baseline = next(iter(self._of(BaselineRecord)), None)
        return Splitting(baseline.n_blocks, max(0.0, baseline.seconds)) if baseline else NO_SPLITTING

    def _sessions(self) -> Iterator[list[Record]]:
        session: list[Record] = []
        for record in self._records:
            if isinstance(record, SessionRecord):
                yield session
                session = []
            session.append(record)
        yield session

    # What it was to do

    def _stop_at(self, stop_reason: str) -> str:
        """As the job says; where it leaves that open, a goal that was met without an end tells."""
        given = self._fingerprint.get("tuning.stop_at")
        if given in ("goal", "budget"):
            return str(given)
        if self._fingerprint.get("tuning.objective", "first") != "first":
            return "budget"
        return "budget" if self._meets_goal and stop_reason != "goal" else "goal"

    @property
    def _fingerprint(self) -> Mapping[str, Any]:
        first = self._records[0]
        return first.fingerprint if isinstance(first, JobRecord) else {}

    def _of(self, kind: type[R]) -> list[R]:
        return [r for r in self._records if isinstance(r, kind)]

    def _wrong(self, record: Record, what: str) -> JournalError:
        where = f"trial {record.trial}" if hasattr(record, "trial") else f"a {record.kind} record"
        return JournalError(f"{self._path}: {where} has {what}. Restore the file from a copy.")


def _hands(record: Record) -> int:
    """Ranks that had a part in it."""
    return max(1, record.n_ranks) if isinstance(record, ResultRecord) else 1


def _counts_latency(objective: object) -> bool:
    return objective == "latency" or (isinstance(objective, Mapping) and "latency" in objective)
