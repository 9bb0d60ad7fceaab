"""When a job stops: checked at each commit in trial order, and by the clock. Budgets always stop."""

import pytest

from disttune.config.algorithms.static import StaticQuantConfig
from disttune.config.errors import InputError
from disttune.config.tuning_config import TuningConfig
from disttune.schedule.exit_policy import ExitPolicy
from disttune.space.candidate import Candidate
from disttune.strategy import Stage
from disttune.strategy.sequential import Sequential
from tests.simulated import Listed, SimulatedJob, Simulation, simulate, small_space

SPACE = small_space(4)
RANKS = [1, 2, 5]


def run(metrics: list[float | None], ranks: int = 1, goal_stops: bool = True, **policy: object) -> Simulation:
    """Trials with these metrics, one after another (None: the evaluation raises); the goal is 99."""
    by_candidate = dict(zip(SPACE, metrics, strict=False))

    def metric(candidate: Candidate) -> float:
        value = by_candidate[candidate]
        if value is None:
            raise ValueError("no number")
        return value

    stages = [Stage("all", list(by_candidate), goal_stops=goal_stops)]
    job = SimulatedJob(lambda: Listed(*stages), SPACE, metric, goal=99.0, policy=ExitPolicy(**policy))  # type: ignore[arg-type]
    return simulate(job, ranks)


def end(simulation: Simulation) -> tuple[int, str, str, int | None]:
    assert simulation.finish is not None
    return (
        len(simulation.table),
        simulation.finish.status,
        simulation.finish.stop_reason,
        simulation.best,
    )


@pytest.mark.parametrize("ranks", RANKS)
def test_the_first_trial_that_meets_the_goal_stops(ranks):
    assert end(run([98, 97, 99, 100, 100], ranks)) == (3, "goal_met", "goal", 2)


@pytest.mark.parametrize("ranks", RANKS)
def test_with_stop_at_budget_a_met_goal_stops_nothing(ranks):
    assert end(run([98, 99, 100], ranks, stop_at="budget")) == (3, "goal_met", "strategy", 1)


@pytest.mark.parametrize("ranks", RANKS)
def test_in_a_stage_that_goes_on_a_met_goal_stops_nothing(ranks):
    assert end(run([99, 98, 100], ranks, goal_stops=False)) == (3, "goal_met", "strategy", 0)


@pytest.mark.parametrize("ranks", RANKS)
def test_max_trials_stops_and_failed_ones_count(ranks):
    assert end(run([None, 98, None, 99], ranks, max_trials=3)) == (3, "goal_not_met", "max_trials", 1)


def test_the_goal_is_the_reason_where_the_last_trial_of_the_budget_meets_it():
    assert end(run([98, 99, 97], max_trials=2)) == (2, "goal_met", "goal", 1)


@pytest.mark.parametrize("ranks", RANKS)
def test_find_n_stops_when_so_many_meet_the_goal(ranks):
    simulation = run([99, 98, 100, 99, 99], ranks, stop_at="budget", find_n=2)

    assert end(simulation) == (3, "goal_met", "find_n", 0)


def test_find_n_of_one_stops_like_the_goal():
    assert end(run([98, 99, 99], stop_at="budget", find_n=1)) == (2, "goal_met", "find_n", 1)


@pytest.mark.parametrize("ranks", RANKS)
def test_patience_stops_after_so_many_trials_without_a_better_best(ranks):
    simulation = run([90, 95, 94, None, 93, 98], ranks, stop_at="budget", patience=3)

    assert end(simulation) == (5, "goal_not_met", "patience", 1)


def test_patience_begins_anew_with_a_better_best():
    simulation = run([90, 89, 95, 94, 96, 90, 90], stop_at="budget", patience=2)

    # 96 is number 4; nothing better among 5 and 6
    assert end(simulation) == (7, "goal_not_met", "patience", 4)


def test_a_tie_in_nearness_is_a_better_best():
    assert end(run([98, 98, 98, 97, 97], stop_at="budget", patience=2)) == (5, "goal_not_met", "patience", 2)


def test_repeats_use_up_neither_budget_nor_patience():
    candidates = [SPACE[0], SPACE[0], SPACE[0], SPACE[1], SPACE[2]]
    stage = Stage("all", candidates)
    job = SimulatedJob(
        lambda: Listed(stage), SPACE, lambda c: 0.5, policy=ExitPolicy("budget", 2, patience=2)
    )

    simulation = simulate(job)

    assert [r[7] for r in simulation.table] == [None, 0, 0, None]
    assert simulation.finish.stop_reason == "max_trials"


def test_find_n_above_one_with_stop_at_goal_is_an_error():
    with pytest.raises(InputError) as caught:
        ExitPolicy("goal", find_n=2)
    assert str(caught.value) == (
        '[tuning] find_n = 2 cannot be reached with stop_at = "goal"; use stop_at = "budget"'
    )


@pytest.mark.parametrize(("now_s", "expected"), [(9.999, False), (10.0, True), (11.0, True)])
def test_the_timeout_is_reached_at_its_second(now_s, expected):
    assert ExitPolicy(timeout_s=10.0).timed_out(now_s) is expected


def test_without_a_timeout_no_time_is_too_long():
    assert not ExitPolicy().timed_out(1e12)


# The three cases of base_tuning's documentation; the float model has 100, so that the goal is 99


METHODS = ("minmax", "entropy", "percentile")


def tuned(config: TuningConfig, metrics: dict[str, float], seconds: dict[str, float] | None = None):
    """What a TuningConfig comes to when its configs give these metrics and take so long."""

    def method(candidate: Candidate) -> str:
        return candidate.config_of("conv_0").activation.method

    policy = ExitPolicy("budget" if config.timeout else "goal", config.max_trials, config.timeout)
    job = SimulatedJob(
        lambda: Sequential(config.configs()),
        SPACE,
        lambda c: metrics[method(c)],
        goal=100.0 * (1 - config.tolerable_loss),
        policy=policy,
        duration_s=lambda item, rank: (seconds or {}).get(method(item), 1.0),
    )
    return simulate(job)


def test_base_tuning_case_1_the_first_that_meets_the_goal_is_returned():
    config = TuningConfig(StaticQuantConfig(calibrate_method=list(METHODS)))

    simulation = tuned(config, {"minmax": 98.0, "entropy": 99.0, "percentile": 100.0})

    assert end(simulation) == (2, "goal_met", "goal", 1)


def test_base_tuning_case_2_a_tie_goes_to_the_later_trial():
    config = TuningConfig(StaticQuantConfig(calibrate_method=list(METHODS)), max_trials=3)

    simulation = tuned(config, {"minmax": 98.0, "entropy": 98.0, "percentile": 97.0})

    assert end(simulation) == (3, "goal_not_met", "max_trials", 1)


def test_base_tuning_case_3_the_trial_that_runs_at_the_timeout_is_forced_to_exit():
    config = TuningConfig(StaticQuantConfig(calibrate_method=list(METHODS)), timeout=10)

    simulation = tuned(
        config,
        {"minmax": 98.0, "entropy": 98.0, "percentile": 97.0},
        {"minmax": 4.0, "entropy": 5.0, "percentile": 6.0},
    )

    assert end(simulation) == (3, "goal_not_met", "timeout", 1)
    assert [row[3] for row in simulation.table] == ["ok", "ok", "timeout"]
    assert simulation.time_s == 10.0
