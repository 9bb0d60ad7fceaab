"""A recorded job on other numbers of ranks: times against arithmetic by hand, the ranks' seconds all told."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from disttune.config.errors import InputError
from disttune.config.schemes import FLOAT32
from disttune.schedule.forecast import Cluster, Forecast, forecast
from disttune.schedule.recorded_job import RECORDED, RecordedJob, RecordedRun, RecordedStage
from disttune.schedule.splitting import Splitting
from disttune.space.candidate import Candidate
from disttune.strategy.stage import Probe


def candidate(n: int) -> Candidate:
    return Candidate((), FLOAT32, recipes=(("n", n),))


def a_job(*stages: list[float], **changes: object) -> RecordedJob:
    """Trials of so many seconds, half of them building."""
    seconds = [s for stage in stages for s in stage]
    candidates = [candidate(n) for n in range(len(seconds))]
    trials = {
        c.digest: RecordedRun("ok", s / 2, s / 2, f"model {n}")
        for n, (c, s) in enumerate(zip(candidates, seconds, strict=True))
    }
    left = iter(candidates)
    made = tuple(RecordedStage("s", tuple(next(left) for _ in stage), True, len(stage)) for stage in stages)
    return replace(RecordedJob(made, trials), **changes)  # type: ignore[arg-type]


def free(n_ranks: int, **changes: float | None) -> Cluster:
    """Messages cost nothing."""
    return replace(Cluster(n_ranks, message_s=0.0, wire_s=0.0), **changes)  # type: ignore[arg-type]


def accounts(f: Forecast) -> float:
    lost = f.startup_s + f.messages_s + f.discarded_s + f.failures_s
    return f.useful_s + lost + f.waiting_s


def test_one_rank_takes_the_sum_of_what_was_recorded():
    found = forecast(a_job([1.0, 2.0], [3.0], startup_s=5.0, handover_s=0.1, closing_s=0.2), free(1))
    assert found.time_s == pytest.approx(5.0 + 6.0 + 3 * 0.1 + 0.2)
    assert (found.useful_s, found.startup_s) == (pytest.approx(6.0), pytest.approx(5.2))
    assert found.messages_s == pytest.approx(0.3)


def test_more_ranks_wait_at_the_end_of_each_stage():
    found = forecast(a_job([1.0, 1.0, 4.0], [2.0]), free(3))
    assert found.time_s == pytest.approx(4.0 + 2.0)
    assert found.waiting_s == pytest.approx(3 * 6.0 - 8.0)
    assert found.efficiency == pytest.approx(8.0 / 18.0)


def test_messages_take_the_time_they_are_given():
    # WorkerJoined 1 s; then word 0.1 out, model built, 0.1 back, 1 s handled, 0.1 out, ..., 0.1 back, 1 s
    found = forecast(a_job([10.0]), replace(free(1), message_s=1.0, wire_s=0.1))
    assert found.n_messages == 3
    assert found.time_s == pytest.approx(1.0 + 0.2 + 5.0 + 1.0 + 0.2 + 5.0 + 1.0)
    assert found.messages_s == pytest.approx(2.4)


def test_what_was_begun_behind_the_goal_is_thrown_away():
    job = a_job([1.0, 3.0], stop_at="goal", stop_reason="goal", stopped_by=candidate(0).digest)
    found = forecast(job, free(2))
    assert found.time_s == pytest.approx(1.0)
    assert (found.useful_s, found.discarded_s) == (pytest.approx(1.0), pytest.approx(1.0))


def test_a_lazy_stage_that_the_goal_ended_goes_on_with_what_nobody_measured():
    job = a_job([2.0, 2.0], stop_at="goal", stop_reason="goal", stopped_by=candidate(1).digest)
    lazy = replace(job, stages=(replace(job.stages[0], n_items=None),))
    assert forecast(lazy, free(8)).discarded_s == pytest.approx(6 * 2.0)
    assert forecast(job, free(8)).discarded_s == 0.0


def test_equal_models_are_evaluated_once():
    job = a_job([2.0, 2.0])
    same = {digest: replace(run, model_digest="one") for digest, run in job.trials.items()}
    assert forecast(replace(job, trials=same), free(1)).time_s == pytest.approx(1.0 + 1.0 + 1.0)


def test_split_trials_use_all_ranks_and_the_rest_of_their_time_is_told():
    job = a_job([100.0], splitting=Splitting(1000, 100.0))
    short = {d: replace(r, build_s=1.0, evaluation_s=99.0) for d, r in job.trials.items()}
    found = forecast(replace(job, trials=short), free(10))
    assert found.time_s < 1.0 + 1.0 + 99.0 / 9
    assert found.useful_s == pytest.approx(100.0)
    assert found.discarded_s == pytest.approx(9 * 1.0)  # building on the ranks that help
    assert accounts(found) == pytest.approx(found.total_s)


def test_probes_take_their_time():
    stage = RecordedStage("p", (Probe(RECORDED, {"place": 0}), Probe(RECORDED, {"place": 1})), False, 2)
    job = RecordedJob((stage,), {}, (RecordedRun(build_s=2.0), RecordedRun(build_s=3.0)))
    assert [forecast(job, free(n)).time_s for n in (1, 2)] == [pytest.approx(5.0), pytest.approx(3.0)]


def test_a_crash_takes_two_attempts():
    job = a_job([2.0])
    crashed = {d: replace(r, status="crashed", model_digest=None) for d, r in job.trials.items()}
    assert forecast(replace(job, trials=crashed), free(1)).time_s == pytest.approx(4.0)


def test_a_failed_node_costs_its_ranks_and_what_they_did():
    job = a_job([100.0] * 64)
    sound, failing = forecast(job, free(16)), forecast(job, free(16, mtbf_hours=2.0, seed=1))
    assert failing.n_failures > 0
    assert failing.failures_s > 0
    assert failing.time_s > sound.time_s
    assert failing.useful_s == pytest.approx(sound.useful_s)
    assert failing == forecast(job, free(16, mtbf_hours=2.0, seed=1))


def test_with_the_node_of_rank_0_the_job_starts_again_from_what_it_has():
    job = a_job([10.0] * 100, startup_s=3.0)
    found = forecast(job, free(1, mtbf_hours=0.1, seed=3))
    assert found.n_failures > 0
    assert found.useful_s == pytest.approx(1000.0)
    assert found.failures_s > 3.0 * found.n_failures - 1e-6
    assert found.waiting_s < 1e-6


def test_nodes_that_never_last_a_trial_are_an_error():
    with pytest.raises(InputError, match="the job does not get on"):
        forecast(a_job([1000.0]), free(1, mtbf_hours=0.001))


@settings(max_examples=30, deadline=None)
@given(
    stages=st.lists(st.lists(st.floats(0.01, 100.0), min_size=1, max_size=12), min_size=1, max_size=3),
    n_ranks=st.integers(1, 9),
    per_node=st.integers(1, 4),
    mtbf_hours=st.none() | st.floats(0.3, 5.0),
    seed=st.integers(0, 5),
    stops=st.booleans(),
    n_blocks=st.sampled_from([0, 5, 100]),
)
def test_every_second_of_every_rank_is_told_once(
    stages, n_ranks, per_node, mtbf_hours, seed, stops, n_blocks
):
    n = sum(map(len, stages))
    ending = {"stop_at": "goal", "stop_reason": "goal", "stopped_by": candidate(n - 1).digest}
    job = a_job(*stages, startup_s=1.0, handover_s=0.01, closing_s=0.5, **(ending if stops else {}))
    trials = {
        d: replace(r, build_s=0.1 * r.build_s, evaluation_s=1.9 * r.build_s) for d, r in job.trials.items()
    }
    job = replace(job, trials=trials, splitting=Splitting(n_blocks, 10.0))
    cluster = Cluster(n_ranks, per_node, message_s=1e-3, mtbf_hours=mtbf_hours, noticed_s=5.0, seed=seed)
    found = forecast(job, cluster)
    assert accounts(found) == pytest.approx(found.total_s)
    assert found.useful_s == pytest.approx(sum(map(sum, stages)))
