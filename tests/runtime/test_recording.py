"""What a resumed job knows from its journal."""

from dataclasses import replace

from disttune.runtime.recording import JournalRecording
from disttune.runtime.records import (
    BaselineRecord,
    CommitRecord,
    DeadlineRecord,
    ExportRecord,
    LatencyRecord,
    ProbeResultRecord,
    ProposalRecord,
    StageRecord,
)
from disttune.schedule.outcome import Outcome
from disttune.space.candidate import Candidate
from tests.runtime.sample_records import one_of_each, result_record
from tests.simulated import small_space

SPACE = small_space(3)


def proposal(stage: int, item: int, trial: int, candidate: Candidate) -> ProposalRecord:
    return ProposalRecord(
        t=1.0, stage=stage, item=item, trial=trial, digest=candidate.digest, candidate=candidate.to_dict()
    )


def recording(*records) -> JournalRecording:
    return JournalRecording(records, SPACE.ops)


def test_an_empty_journal_knows_nothing():
    known = recording()

    assert (known.baseline, known.deadline, known.exported, known.n_results) == (None, None, None, 0)
    assert known.proposal(0, 0) is None
    assert known.outcome(SPACE[0]) is None
    assert known.probe(0, 0) is None
    assert known.latency(SPACE[0]) is None
    assert [known.has_stage(0), known.has_proposal(0, 0, 0), known.has_commit(0)] == [False] * 3


def test_every_kind_of_record_can_be_read():
    known = JournalRecording(one_of_each())

    assert known.baseline == BaselineRecord(t=1.0, values=(0.75,), names=("top1",), seconds=0.5, given=False)
    assert known.deadline == DeadlineRecord(t=1.0, trial_timeout_s=60.0)
    assert isinstance(known.exported, ExportRecord)
    assert known.has_stage(0)
    assert known.has_commit(0)
    assert known.n_results == 1  # the other one was cancelled by the job's timeout


def test_a_proposal_comes_back_as_its_candidate():
    candidate = SPACE[5].in_float("conv_1")
    known = recording(proposal(2, 3, 7, candidate))

    assert known.proposal(2, 3) == candidate
    assert known.proposal(2, 4) is None
    assert [known.has_proposal(2, 3, trial) for trial in (7, 8)] == [True, False]


def test_an_outcome_is_found_by_the_candidate_whatever_its_number():
    record = result_record(9, digest=SPACE[1].digest, reason="", stderr_tail="")
    known = recording(record)

    assert known.outcome(SPACE[1]) == Outcome(
        "ok", record.values, model_digest=record.model_digest, size_bytes=123456, n_quantized=7, seconds=1.25,
        evaluation_s=1.0, rank=3,
    )  # fmt: skip
    assert known.outcome(SPACE[2]) is None


def test_a_failed_outcome_keeps_reason_and_tail():
    record = result_record(
        0, digest=SPACE[0].digest, status="crashed", values=None, reason="SIGSEGV", stderr_tail="at line 3"
    )
    outcome = recording(record).outcome(SPACE[0])

    assert outcome is not None
    assert (outcome.status, outcome.values, outcome.reason, outcome.stderr_tail) == (
        "crashed",
        None,
        "SIGSEGV",
        "at line 3",
    )


def test_a_trial_that_the_jobs_timeout_ended_runs_again():
    record = result_record(0, digest=SPACE[0].digest, status="timeout", values=None, cancelled=True)

    assert recording(record).outcome(SPACE[0]) is None


def test_a_later_record_about_the_same_thing_holds():
    first = result_record(0, digest=SPACE[0].digest)
    later = replace(first, values=(0.5, 0.25))
    exports = [
        ExportRecord(t=t, trial=n, digest="a" * 32, model_digest="b" * 32, file="best.onnx")
        for t, n in ((1.0, 0), (2.0, 4))
    ]
    known = recording(first, later, *exports, proposal(0, 0, 0, SPACE[1]), proposal(0, 0, 0, SPACE[2]))

    assert known.outcome(SPACE[0]).values == (0.5, 0.25)
    assert known.exported.trial == 4
    assert known.proposal(0, 0) == SPACE[2]
    assert known.n_results == 1


def test_a_latency_is_found_by_the_candidate():
    value = {"ratio": 0.5, "spread": 0.1, "milliseconds": 1.0, "float_milliseconds": 2.0}
    facts = {"t": 1.0, "trial": 3, "digest": SPACE[1].digest, "seconds": 1.5, "rank": 2}
    known = recording(
        LatencyRecord(status="failed", value=None, reason="no feeds", **facts),
        LatencyRecord(status="ok", value=value, **facts),
    )

    assert known.latency(SPACE[1]) == Outcome("ok", value=value, seconds=1.5, rank=2)
    assert known.latency(SPACE[2]) is None


def test_a_probe_is_found_by_its_place():
    record = ProbeResultRecord(t=1.0, stage=1, item=2, probe={"kind": "mse"}, status="ok", value=[1, 2.5],
                               seconds=0.5, rank=3)  # fmt: skip
    known = recording(record)

    assert known.probe(1, 2) == Outcome("ok", value=[1, 2.5], seconds=0.5, rank=3)
    assert known.probe(1, 3) is None


def test_stages_and_commits_are_known_by_number():
    known = recording(
        StageRecord(t=0.0, index=3, name="x", needs="metric", goal_stops=True),
        CommitRecord(t=0.0, trial=5, duplicate_of=None, meets_goal=False, best=None),
    )
    assert [known.has_stage(i) for i in (2, 3)] == [False, True]
    assert [known.has_commit(i) for i in (4, 5)] == [False, True]
