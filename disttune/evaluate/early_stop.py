"""Measuring a metric while watching what it can still become, were all other samples perfect.

The scores of metrics such as top1 or mse have a best value. With it in the place of every sample that is not
scored yet, the metric is one that the true one cannot beat: sums, means and what is made of them are monotone
in each score, also as they are rounded.

With a risk, a bound may be wrong with that probability for a trial, all its looks together: blocks are scored
in a random order that the seed decides, and the mean of those that are scored is off by no more than
Hoeffding and Serfling allow. Source: the Hoeffding-Serfling inequality of Bardenet and Maillard 2015,
"Concentration inequalities for sampling without replacement"; here the blocks are the population, and the
looks share the risk.
"""

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from disttune.config.errors import TrialError
from disttune.evaluate.evaluators import Evaluator, guarded
from disttune.evaluate.metric_value import finite_number
from disttune.evaluate.metrics import Metric
from disttune.evaluate.samples import SampleEvaluator, Scores
from disttune.schedule.early_stop import StopRule

LOOKS = 32  # at most, the end included: what is kept of a trial
SLACK = 1e-12  # for reductions that are not a sum: exp need not be monotone in its last bit


@dataclass(frozen=True, slots=True)
class StopTest:
    """A test in the place of certainty.

    Args:
        risk: probability that some bound of a trial is wrong.
        seed: of the order of blocks.
    """

    risk: float
    seed: int


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


def can_be_watched(evaluators: Sequence[Evaluator], by_test: bool = False) -> bool:
    """Whether there is one evaluator, a metric whose scores have a best value, and more than one block.

    Args:
        by_test: whether it is to be bounded by a test.
    """
    if len(evaluators) != 1 or (evaluators[0].weight or 1.0) < 0:
        return False
    metric, samples = evaluators[0].metric, evaluators[0].function
    n_blocks = samples.n_blocks if isinstance(samples, SampleEvaluator) else len(evaluators[0].inputs)
    if metric is None or n_blocks < 2:
        return False
    return metric.is_mean_in_a_range if by_test else metric.best_score is not None


def watch(evaluator: Evaluator, model: Any, rule: StopRule | None, test: StopTest | None = None) -> Watched:
    """Measure a model, and stop when the rule proves it hopeless.

    Args:
        evaluator: one that can be watched.
        rule: None: go on to the end.
        test: None: bounds are certain.
    """
    samples = _samples(evaluator)
    found: dict[int, Scores] = {}
    looks = _Looks(evaluator, test)
    try:
        for block in looks.order:
            found[block] = guarded(evaluator, lambda b=block: samples.score_block(model, b))  # type: ignore[misc]
            if looks.at(block, found[block]) and rule is not None and rule.is_hopeless(looks.bounds[-1]):
                return Watched(None, tuple(looks.bounds))
        value = finite_number(guarded(evaluator, lambda: samples.combine(found)), evaluator.label)
    except TrialError as error:
        return Watched(None, tuple(looks.bounds), error)
    return Watched(value, tuple(looks.bounds))


def bounds_of(
    evaluator: Evaluator, scores: Sequence[Scores], test: StopTest | None = None
) -> tuple[float, ...]:
    """The bounds that watching would have found, from the scores of all blocks."""
    looks = _Looks(evaluator, test)
    for block in looks.order:
        looks.at(block, np.asarray(scores[block]))
    return tuple(looks.bounds)


class _Looks:
    """Bounds after some of the blocks, the same ones for every model."""

    def __init__(self, evaluator: Evaluator, test: StopTest | None):
        assert evaluator.metric is not None
        assert evaluator.metric.best_score is not None
        self.bounds: list[float] = []
        self._samples = _samples(evaluator)
        n_blocks = self._samples.n_blocks
        self.order = list(range(n_blocks))
        self._higher_is_better = evaluator.higher_is_better
        self._sizes = [self._samples.n_targets(block) for block in self.order]
        self._starts = [0, *np.cumsum(self._sizes).tolist()]
        self._scores = np.full(self._starts[-1], evaluator.metric.best_score)
        self._after = set(_looks(n_blocks))  # so many blocks
        self._n_known = 0
        self._is_sound = True
        self._mean: _MeanOfBlocks | None = None
        if test is not None:
            random.Random(test.seed).shuffle(self.order)
            self._mean = _MeanOfBlocks(evaluator.metric, self._sizes, test.risk / len(self._after))

    def at(self, block: int, scores: Scores) -> bool:
        """Take in the scores of the next block; whether there is a new bound."""
        if not self._is_sound:
            return False
        if len(scores) != self._sizes[block] or not np.isfinite(scores).all():
            self._is_sound = False
            return False
        self._scores[self._starts[block] : self._starts[block + 1]] = scores
        self._n_known += 1
        if self._mean is not None:
            self._mean.add(scores)
        if self._n_known not in self._after:
            return False
        bound = self._bound()
        self._is_sound = math.isfinite(bound)
        if self._is_sound:
            self.bounds.append(bound)
        return self._is_sound

    def _bound(self) -> float:
        bound = float(self._samples.reduce(self._scores))
        if self._mean is not None:
            return min(bound, self._mean.bound())
        if not self._samples.is_reduced_by_function:
            return bound
        slack = SLACK * max(1.0, abs(bound))
        return bound + slack if self._higher_is_better else bound - slack


class _MeanOfBlocks:
    """An upper bound of the mean score from blocks drawn without replacement.

    Args:
        metric: the mean of scores with a best and a worst value.
        sizes: samples of each block.
        risk: probability that one bound is wrong.
    """

    def __init__(self, metric: Metric, sizes: Sequence[int], risk: float):
        assert metric.best_score is not None
        assert metric.worst_score is not None
        self._worst = metric.worst_score
        self._n_blocks = len(sizes)
        self._scale = len(sizes) / sum(sizes)  # a block's sum times this has the metric for its mean
        self._range = (metric.best_score - metric.worst_score) * max(sizes) * self._scale
        self._log_risk = math.log(1 / risk)
        self._sums: list[float] = []

    def add(self, scores: Scores) -> None:
        """Take in the next block."""
        self._sums.append(math.fsum(scores - self._worst) * self._scale)

    def bound(self) -> float:
        """What the mean of all blocks exceeds with no more than that probability."""
        n, total = len(self._sums), self._n_blocks
        left = 1 - (n - 1) / total if 2 * n <= total else (1 - n / total) * (1 + 1 / n)
        mean = math.fsum(self._sums) / n
        return self._worst + mean + self._range * math.sqrt(left * self._log_risk / (2 * n))


def _looks(n_blocks: int) -> Iterator[int]:
    """Numbers of blocks after which to look: each while they are few, never all."""
    n_looks = min(LOOKS, n_blocks)
    return (-(-n_blocks * (i + 1) // n_looks) for i in range(n_looks - 1))


def _samples(evaluator: Evaluator) -> SampleEvaluator:
    assert isinstance(evaluator.function, SampleEvaluator)
    return evaluator.function
