"""A journal read as a job to be simulated: what it says of a run, and what is no journal of one."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from disttune.config.errors import DisttuneError, JournalError
from disttune.runtime.journal import JournalContents
from disttune.runtime.recorded_job import recorded_job
from disttune.runtime.records import (
    CommitRecord,
    FinishRecord,
    LatencyRecord,
    ProbeResultRecord,
    ProposalRecord,
    Record,
    ResultRecord,
    SessionRecord,
    StageRecord,
)
from disttune.schedule.forecast import Cluster, forecast
from disttune.schedule.recorded_job import RecordedJob
from disttune.space.candidate import Candidate
from tests.runtime.sample_records import ANY_RECORD, job_record, result_record
from tests.simulated import small_space

PATH = Path("run/journal.jsonl")
SPACE = small_space()


def session(n_ranks: int = 1, t: float = 0.0) -> SessionRecord:
    return SessionRecord(t=t, number=1, n_ranks=n_ranks, hosts=("a",), started="now", cpus={})


def proposal(n: int, stage: int = 0) -> ProposalRecord:
    candidate = SPACE[n]
    return ProposalRecord(
        t=1.0, stage=stage, item=n, trial=n, digest=candidate.digest, candidate=candidate.to_dict()
    )


def result(n: int, t: float, seconds: float = 1.0, **changes: object) -> ResultRecord:
    values = {"digest": SPACE[n].digest, "seconds": seconds, "evaluation_s": seconds / 4, "rank": 0}
    return result_record(n, t, **{**values, **changes})


def commit(n: int, meets_goal: bool = False) -> CommitRecord:
    return CommitRecord(t=9.0, trial=n, duplicate_of=None, meets_goal=meets_goal, best=None)


STAGE = StageRecord(t=1.0, index=0, name="s", needs="goal", goal_stops=True)
END = FinishRecord(t=8.0, status="goal_met", stop_reason="goal")
THREE = [
    job_record(), session(), STAGE, proposal(0), proposal(1), result(0, 3.0), commit(0), proposal(2),
    result(1, 4.5), commit(1, meets_goal=True), END,
]  # fmt: skip


def read(*records: Record) -> RecordedJob:
    return recorded_job(JournalContents(tuple(records)), PATH)


def test_times_are_those_of_the_run():
    job = read(*THREE)
    assert (job.startup_s, job.closing_s, job.handover_s) == (2.0, 3.5, 0.5)
    assert [(r.build_s, r.evaluation_s, r.meets_goal) for r in job.trials.values()] == [
        (0.75, 0.25, False),
        (0.75, 0.25, True),
    ]
    assert (job.stop_at, job.stop_reason, job.stopped_by) == ("goal", "goal", SPACE[1].digest)


def test_on_its_own_ranks_the_forecast_is_the_recorded_time():
    cluster = Cluster(1, message_s=0.0, wire_s=0.0)
    assert forecast(read(*THREE), cluster).time_s == pytest.approx(8.0, abs=0.5)  # the first has no hand-over


def test_what_was_never_measured_is_left_out_and_repeats_stay():
    again = replace(proposal(0), item=3, trial=3)
    (stage,) = read(*THREE[:-1], again).stages
    assert [i.digest for i in stage.items if isinstance(i, Candidate)] == [
        SPACE[0].digest,
        SPACE[1].digest,
        SPACE[0].digest,
    ]


def test_a_run_that_goes_on_or_was_interrupted_has_no_trial_that_ended_it():
    assert read(*THREE[:-1]).stopped_by is None
    assert read(*THREE[:-1], replace(END, stop_reason="signal")).stopped_by is None
    assert read(*THREE, session(t=9.0)).stop_reason == ""  # resumed, under way


def test_the_trial_of_a_known_model_takes_what_the_model_took():
    known = {"model_digest": "m", "evaluation_s": 0.0}
    job = read(*THREE[:5], result(0, 3.0, model_digest="m"), result(1, 4.0, seconds=0.0, **known))
    assert job.trials[SPACE[1].digest].evaluation_s == 0.25
    assert job.trials[SPACE[1].digest].build_s == 0.75


def test_latencies_and_probes_are_part_of_it():
    latency = LatencyRecord(
        t=6.0, trial=1, digest=SPACE[1].digest, status="ok", value=None, seconds=1.5, rank=0
    )
    probe = ProbeResultRecord(t=2.0, stage=1, item=0, probe={}, status="ok", value=None, seconds=0.3, rank=0)
    job = read(*THREE[:-1], replace(STAGE, index=1, n_items=1), probe, latency)
    assert [len(stage.items) for stage in job.stages] == [2, 1]
    assert forecast(job, Cluster(2)).useful_s == pytest.approx(1.0 + 1.0 + 0.3 + 1.5)


@pytest.mark.parametrize(
    ("records", "message"),
    [
        (THREE[:5], "no trial has been measured yet"),
        ([*THREE[:5], result(0, 3.0, seconds=-1.0, evaluation_s=0.0)], "trial 0 has -1 s"),
        ([*THREE[:5], result(0, 3.0, evaluation_s=-1.0)], "trial 0 has an evaluation that took -1 s"),
        ([*THREE[3:6]], "results of stage 0, but no such stage"),
        ([STAGE, replace(proposal(0), candidate={"default": []}), result(0, 1.0)], "cannot be read"),
        ([STAGE, replace(proposal(0), candidate=SPACE[1].to_dict()), result(0, 1.0)], "digest"),
    ],
)
def test_a_journal_that_does_not_fit_together_is_one_message(records, message: str):
    with pytest.raises(JournalError, match=message):
        read(*records)


@settings(max_examples=60, deadline=None)
@given(st.lists(ANY_RECORD | st.sampled_from(THREE), max_size=14))
def test_any_records_give_a_forecast_or_a_message(records: list[Record]):
    try:
        found = forecast(read(*records), Cluster(3))
    except DisttuneError:
        return
    assert found.time_s >= 0
