"""Measuring a metric while watching what it can still become, were all other samples perfect.

The scores of metrics such as top1 or mse have a best value. With it in the place of every sample that is not
scored yet, the metric is one that the true one cannot beat: sums, means and what is made of them are monotone
in each score, also as they are rounded.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from disttune.config.errors import TrialError
from disttune.evaluate.evaluators import Evaluator, guarded
from disttune.evaluate.metric_value import finite_number
from disttune.evaluate.samples import SampleEvaluator, Scores
from disttune.schedule.early_stop import StopRule

LOOKS = 32  # at most, the end included: what is kept of a trial
SLACK = 1e-12  # for reductions that are not a sum: exp need not be monotone in its last bit


@dataclass(frozen=True, slots=True)
class Watched:
    """What came of it.

    Args:
        value: the metric; None when it was stopped, or failed.
        bounds: best possible metric after each look, the end not included.
        error: why it failed.
    """

    value: float | None
    bounds: tuple[float, ...]
    error: TrialError | None = None


def can_be_watched(evaluators: Sequence[Evaluator]) -> bool:
    """Whether there is one evaluator, a metric whose scores have a best value, and more than one block."""
    if len(evaluators) != 1:
        return False
    metric, samples = evaluators[0].metric, evaluators[0].function
    if (evaluators[0].weight or 1.0) < 0:
        return False
    n_blocks = samples.n_blocks if isinstance(samples, SampleEvaluator) else len(evaluators[0].inputs)
    return metric is not None and metric.best_score is not None and n_blocks > 1


def watch(evaluator: Evaluator, model: Any, rule: StopRule | None) -> Watched:
    """Measure a model, and stop when the rule proves it hopeless.

    Args:
        evaluator: one that can be watched.
        rule: None: go on to the end.
    """
    samples = _samples(evaluator)
    found: list[Scores] = []
    looks = _Looks(evaluator)
    try:
        for block in range(samples.n_blocks):
            found.append(guarded(evaluator, lambda b=block: samples.score_block(model, b)))  # type: ignore[misc]
            if looks.at(block, found[-1]) and rule is not None and rule.is_hopeless(looks.bounds[-1]):
                return Watched(None, tuple(looks.bounds))
        value = finite_number(
            guarded(evaluator, lambda: samples.combine(dict(enumerate(found)))), evaluator.label
        )
    except TrialError as error:
        return Watched(None, tuple(looks.bounds), error)
    return Watched(value, tuple(looks.bounds))


def bounds_of(evaluator: Evaluator, scores: Sequence[Scores]) -> tuple[float, ...]:
    """The bounds that watching would have found, from the scores of all blocks."""
    looks = _Looks(evaluator)
    for block, of_block in enumerate(scores):
        looks.at(block, np.asarray(of_block))
    return tuple(looks.bounds)


class _Looks:
    """Bounds after some of the blocks, the same ones for every model."""

    def __init__(self, evaluator: Evaluator):
        assert evaluator.metric is not None
        assert evaluator.metric.best_score is not None
        self.bounds: list[float] = []
        self._samples = _samples(evaluator)
        self._places = set(_places(self._samples.n_blocks))
        self._higher_is_better = evaluator.higher_is_better
        n_scores = sum(self._samples.n_targets(block) for block in range(self._samples.n_blocks))
        self._scores = np.full(n_scores, evaluator.metric.best_score)
        self._n_known = 0
        self._is_sound = True

    def at(self, block: int, scores: Scores) -> bool:
        """Take in the scores of the next block; whether there is a new bound."""
        if not self._is_sound:
            return False
        if len(scores) != self._samples.n_targets(block) or not np.isfinite(scores).all():
            self._is_sound = False
            return False
        self._scores[self._n_known : self._n_known + len(scores)] = scores
        self._n_known += len(scores)
        if block not in self._places:
            return False
        bound = float(self._samples.reduce(self._scores))
        if self._samples.is_reduced_by_function:
            slack = SLACK * max(1.0, abs(bound))
            bound = bound + slack if self._higher_is_better else bound - slack
        self._is_sound = math.isfinite(bound)
        if self._is_sound:
            self.bounds.append(bound)
        return self._is_sound


def _places(n_blocks: int) -> Iterator[int]:
    """Blocks after which to look: every one when they are few, never the last."""
    n_looks = min(LOOKS, n_blocks)
    return (-(-n_blocks * (i + 1) // n_looks) - 1 for i in range(n_looks - 1))


def _samples(evaluator: Evaluator) -> SampleEvaluator:
    assert isinstance(evaluator.function, SampleEvaluator)
    return evaluator.function
