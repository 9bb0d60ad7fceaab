"""The end of the batch job: nothing is started that should end later; the rest is resumed."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from disttune.schedule.batch_end import LONGER, BatchEnd
from disttune.schedule.exit_policy import ExitPolicy
from disttune.strategy.exhaustive import Exhaustive
from tests.simulated import SimulatedJob, landscape, simulate, small_space

JOB = SimulatedJob(
    Exhaustive, small_space(5), landscape(1), goal=2.0, policy=ExitPolicy("budget"),
    duration_s=lambda item, rank: 2.0,
)  # fmt: skip


def ending(at_s: float, first_s: float = 0.0) -> SimulatedJob:
    return replace(JOB, policy=replace(JOB.policy, batch_end=BatchEnd(at_s, first_s)))


def test_no_trial_is_started_that_should_end_after_the_batch_job():
    cut = simulate(ending(11.0), 1)

    assert (cut.finish.status, cut.finish.stop_reason) == ("interrupted", "batch_end")
    assert len(cut.table) == 5  # the sixth would start at 10 s
    assert cut.time_s <= 11.0
    notices = [c.text for c in cut.commands if type(c).__name__ == "Notice"]
    assert notices == [
        "the batch job ends soon: 1 s are left for work, and the next trial takes about 2 s; "
        "no more are started"
    ]


@pytest.mark.parametrize("ranks", [1, 3, 8])
def test_the_rest_is_resumed_to_the_same_table(ranks: int):
    cut = simulate(ending(5.0), ranks)

    assert 0 < len(cut.known.outcomes) < 32
    assert simulate(JOB, ranks, recording=cut.known).table == simulate(JOB, 1).table


def test_before_anything_is_measured_the_float_model_tells_how_long_a_trial_takes():
    assert simulate(ending(9.0, first_s=10.0), 2).n_evaluations == 0
    assert simulate(ending(9.0, first_s=2.0), 2).n_evaluations > 0


def test_a_job_that_is_done_in_time_does_not_notice():
    assert simulate(ending(1000.0), 2).finish.stop_reason == simulate(JOB, 2).finish.stop_reason


def test_what_still_runs_at_the_end_is_given_up():
    slow = replace(ending(7.0), duration_s=lambda item, rank: 2.0 if rank == 0 else 100.0)

    cut = simulate(slow, 2)

    assert cut.finish.stop_reason == "batch_end"
    assert len(cut.table) >= 1


@settings(max_examples=40, deadline=None)
@given(at_s=st.floats(0.0, 80.0), ranks=st.integers(1, 5))
def test_nothing_starts_later_than_it_can_be_expected_to_end(at_s: float, ranks: int):
    cut = simulate(ending(at_s, first_s=2.0), ranks)

    assert cut.n_evaluations <= ranks * max(0.0, at_s - (LONGER - 1.0) * 2.0) / 2.0 + ranks
    assert cut.time_s <= max(at_s, 64.0)
