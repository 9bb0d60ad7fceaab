"""The accuracy goal: which metrics meet it, and how far the others are from it."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from disttune.config.goal import Goal, Objective

HIGHER, LOWER = Objective("accuracy"), Objective("loss", higher_is_better=False)
_metrics = st.floats(-1e6, 1e6)


def goal(objective: Objective, baseline: float, criterion: str = "relative", loss: float = 0.01) -> Goal:
    return Goal((objective,), (baseline,), criterion, loss)  # type: ignore[arg-type]


@pytest.mark.parametrize(("objective", "baseline", "criterion", "loss", "target"), [
    (HIGHER, 0.8, "relative", 0.01, 0.792), (HIGHER, -0.8, "relative", 0.01, -0.808),
    (HIGHER, 0.0, "relative", 0.1, 0.0),
    (LOWER, 5.0, "relative", 0.1, 5.5), (LOWER, -5.0, "relative", 0.1, -4.5),
    (HIGHER, 0.8, "absolute", 0.1, 0.7), (LOWER, 5.0, "absolute", 0.1, 5.1),
    (HIGHER, 0.8, "relative", -0.5, 1.2),
])  # fmt: skip
def test_target_is_the_baseline_less_the_loss_in_the_metric_s_direction(
    objective, baseline, criterion, loss, target
):
    assert goal(objective, baseline, criterion, loss).target == pytest.approx(target, abs=1e-15)


@given(base=_metrics, loss=st.floats(0, 0.99))
def test_exact_tie_counts_in_both_directions(base, loss):
    assert goal(HIGHER, base, loss=loss).meets([base - loss * abs(base)])
    assert goal(LOWER, base, loss=loss).meets([base + loss * abs(base)])


@given(base=_metrics, value=_metrics, loss=st.floats(-0.5, 0.5))
def test_lower_is_better_mirrors_higher_is_better(base, value, loss):
    higher, lower = goal(HIGHER, base, loss=loss), goal(LOWER, -base, loss=loss)
    assert higher.meets([value]) == lower.meets([-value])
    assert higher.shortfall([value]) == lower.shortfall([-value])


@given(base=_metrics, value=_metrics)
def test_shortfall_is_nothing_exactly_when_the_goal_is_met(base, value):
    target = goal(HIGHER, base)
    assert (target.shortfall([value]) == 0) == target.meets([value])
    assert target.shortfall([value]) >= 0


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_metric_that_is_no_finite_number_never_meets_the_goal(value):
    assert not goal(HIGHER, 0.5).meets([value])
    assert not goal(LOWER, 0.5).meets([value])


def test_weights_make_one_sum_with_one_target():
    weighted = Goal((Objective("a", weight=0.7), Objective("b", weight=0.3)), (1.0, 0.5), "absolute", 0.05)
    assert weighted.target == pytest.approx(0.85 - 0.05)
    assert weighted.meets([1.0, 0.4])
    assert not weighted.meets([0.9, 0.5])


def test_without_weights_each_evaluator_must_reach_its_own_target():
    separate = Goal((HIGHER, LOWER), (0.8, 2.0), "relative", 0.1)
    assert separate.meets([0.72, 2.2])
    assert not separate.meets([0.9, 2.3])
    assert not separate.meets([0.7, 1.0])


def test_nearest_of_separate_targets_is_the_smallest_worst_shortfall():
    separate = Goal((HIGHER, LOWER), (0.8, 2.0), "relative", 0.1)
    assert separate.shortfall([0.9, 2.3]) == pytest.approx(0.05)  # 0.1 of 2.0
    assert separate.shortfall([0.56, 2.3]) == pytest.approx(0.2)  # 0.16 of 0.8
