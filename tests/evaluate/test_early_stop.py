"""Bounds of metrics: never beaten by what the metric becomes, and what stops by them misses its goal."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from disttune.config.goal import Goal, Objective
from disttune.evaluate.blocks import score_blocks
from disttune.evaluate.early_stop import StopTest, bounds_of, can_be_watched, watch
from disttune.evaluate.evaluators import Evaluator, evaluate
from disttune.evaluate.metrics import bounded_metrics, find_metric, metrics_in_a_range
from disttune.evaluate.samples import SampleEvaluator
from disttune.schedule.early_stop import StopRule


class Given:
    """A model that gives what it was made with, block by block."""

    def __init__(self, outputs):
        self.outputs = outputs

    def run(self, output_names, input_feed):
        return [self.outputs[int(input_feed["block"])]]


def evaluator(name, targets):
    metric = find_metric(name)
    blocks = [({"block": np.array(i)}, target) for i, target in enumerate(targets)]
    function = SampleEvaluator(blocks, metric.score, metric.reduce)
    return Evaluator(name, function, higher_is_better=metric.higher_is_better, metric=metric)


def drawn(name, seed, n_blocks, level):
    """Outputs with errors of all sizes, and targets."""
    rng = np.random.default_rng(seed)
    sizes = [int(rng.integers(1, 6)) for _ in range(n_blocks)]
    shape = (4, 7) if name == "perplexity" else (7,)
    outputs = [rng.standard_normal((n, *shape)) for n in sizes]
    if name in ("top1", "perplexity"):
        targets = [np.where(rng.random(o.shape[:-1]) < level, o.argmax(-1), 0) for o in outputs]
    else:
        targets = [o + rng.standard_normal(o.shape) * 10.0 ** rng.uniform(-6, 1) for o in outputs]
    return outputs, targets


@pytest.mark.parametrize("name", bounded_metrics())
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), n_blocks=st.integers(2, 70), level=st.floats(0, 1))
def test_no_metric_beats_its_bounds_and_bounds_only_get_worse(name, seed, n_blocks, level):
    """The oracle is the evaluation itself."""
    outputs, targets = drawn(name, seed, n_blocks, level)
    ours = evaluator(name, targets)

    watched = watch(ours, Given(outputs), None)

    assert (watched.value,) == evaluate((ours,), Given(outputs))
    assert len(watched.bounds) == min(n_blocks, 32) - 1
    sign = 1 if ours.higher_is_better else -1
    steps = [sign * b for b in (*watched.bounds, watched.value)]
    assert steps == sorted(steps, reverse=True)
    scores = score_blocks((ours,), Given(outputs), range(n_blocks))
    assert bounds_of(ours, scores) == watched.bounds


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), level=st.floats(0, 1), target=st.floats(0, 1))
def test_what_stops_misses_its_goal_and_stops_at_the_first_bound_that_proves_it(seed, level, target):
    outputs, targets = drawn("top1", seed, 20, level)
    ours = evaluator("top1", targets)
    rule = StopRule(Goal((Objective("top1"),), (target,), "absolute", 0.0), 0.0)

    stopped, whole = watch(ours, Given(outputs), rule), watch(ours, Given(outputs), None)

    place = rule.first_hopeless(whole.bounds)
    assert stopped.bounds == (whole.bounds if place is None else whole.bounds[: place + 1])
    if stopped.value is None:
        assert whole.value < target
    else:
        assert stopped.value == whole.value


def test_half_of_the_samples_wrong_end_a_goal_of_ninety_percent_after_a_fifth():
    outputs = [np.eye(2)[[0, 0]]] * 50
    ours = evaluator("top1", [np.array([0, 1])] * 50)
    rule = StopRule(Goal((Objective("top1"),), (1.0,), "absolute", 0.1), 0.0)
    model = Given(outputs)
    n_run = []
    model.run = lambda names, feed: n_run.append(1) or [outputs[int(feed["block"])]]

    assert watch(ours, model, rule).value is None
    assert len(n_run) == 11


def test_what_is_not_finite_proves_nothing_and_fails_as_it_does_in_any_job():
    outputs = [np.full((1, 3), np.nan if i == 1 else 1.0) for i in range(4)]
    ours = evaluator("mse", [np.zeros((1, 3))] * 4)
    watched = watch(ours, Given(outputs), None)
    assert watched.bounds == (0.25,)
    assert "returned nan" in str(watched.error)


def test_functions_several_evaluators_and_single_blocks_are_not_watched():
    ours = evaluator("top1", [np.array([0])] * 3)
    function = Evaluator("mine", lambda model: 1.0)
    assert can_be_watched([ours])
    assert not can_be_watched([function])
    assert not can_be_watched([ours, ours])
    assert not can_be_watched([evaluator("top1", [np.array([0])])])
    assert not can_be_watched([evaluator("ssim", [np.zeros((1, 3))] * 3)])
    assert not can_be_watched([evaluator("mse", [np.zeros((1, 3))] * 3)], by_test=True)


# By a test


@pytest.mark.parametrize("name", metrics_in_a_range())
def test_a_bound_is_wrong_no_more_often_than_was_asked_for(name):
    """All looks of 400 orders of the blocks of one model; the oracle is its metric."""
    outputs, targets = drawn(name, 7, 60, 0.8)
    ours = evaluator(name, targets)
    (value,) = evaluate((ours,), Given(outputs))
    scores = score_blocks((ours,), Given(outputs), range(60))

    found = [bounds_of(ours, scores, StopTest(0.3, seed)) for seed in range(400)]

    assert sum(min(bounds) < value for bounds in found) <= 0.3 * 400
    mean = np.mean(found, axis=0)
    certain = np.array(bounds_of(ours, scores))
    assert any(mean < certain - 1e-3)


def test_a_bad_model_ends_sooner_by_a_test_than_by_certainty():
    outputs = [np.eye(2)[[0, 0]]] * 400
    ours = evaluator("top1", [np.array([0, 1])] * 400)
    rule = StopRule(Goal((Objective("top1"),), (1.0,), "absolute", 0.2), 0.0, risk=0.01)

    tested = watch(ours, Given(outputs), rule, StopTest(0.01, seed=0))
    certain = watch(ours, Given(outputs), rule)

    assert tested.value is None
    assert len(tested.bounds) < len(certain.bounds) < 31


def test_the_order_of_blocks_changes_no_metric_and_is_the_same_for_a_seed():
    outputs, targets = drawn("top1", 3, 40, 0.5)
    ours = evaluator("top1", targets)
    found = [watch(ours, Given(outputs), None, StopTest(0.01, seed)) for seed in (0, 0, 1)]
    assert found[0] == found[1]
    assert found[0].bounds != found[2].bounds
    assert {(w.value,) for w in found} == {evaluate((ours,), Given(outputs))}
