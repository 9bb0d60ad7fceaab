"""Bounds of metrics: never beaten by what the metric becomes, and what stops by them misses its goal."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from disttune.config.goal import Goal, Objective
from disttune.evaluate.blocks import score_blocks
from disttune.evaluate.early_stop import bounds_of, can_be_watched, watch
from disttune.evaluate.evaluators import Evaluator, evaluate
from disttune.evaluate.metrics import bounded_metrics, find_metric
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
