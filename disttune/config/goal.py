"""The accuracy goal: one predicate for "meets the goal" and "how far from it", used everywhere.

Pure. Relative target: base -+ tol * |base|; absolute: base -+ tol; equality counts, up to 1e-12 of
the target (without it one exact tie in eight is missed in floating point).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

Criterion = Literal["relative", "absolute"]


@dataclass(frozen=True, slots=True)
class Objective:
    """What one named evaluator asks for.

    Args:
        name: the evaluator's name, a column of trials.csv.
        higher_is_better: direction of its metric.
        weight: factor in the weighted sum; None when every evaluator has its own target.
    """

    name: str
    higher_is_better: bool = True
    weight: float | None = None


@dataclass(frozen=True)
class Goal:
    """The targets that a trial's metrics are held against.

    With weights the metrics become one sum (in the direction of the first evaluator); without, each
    is held against its own target in its own direction, and the goal is met when all are.

    Args:
        objectives: at least one; all with weights or none.
        baseline: metrics of the fp32 model, one for each objective.
        criterion: "relative" or "absolute".
        tolerable_loss: loss allowed, as a fraction of |baseline| or in units of the metric; may be
            negative (the model must improve).
    """

    objectives: tuple[Objective, ...]
    baseline: tuple[float, ...]
    criterion: Criterion = "relative"
    tolerable_loss: float = 0.01

    @property
    def weighted(self) -> bool:
        return self.objectives[0].weight is not None

    @cached_property
    def separate(self) -> bool:
        """Whether each of several evaluators has its own target."""
        return len(self.objectives) > 1 and not self.weighted

    @property
    def higher_is_better(self) -> bool:
        return self.separate or self.objectives[0].higher_is_better

    def metric(self, values: Sequence[float]) -> float:
        """One number for a trial: the only metric, the weighted sum, or with separate targets the
        worst margin to its target as a fraction of |baseline| (0 or more: all are met)."""
        if self.separate:
            return min(self._margin(v, i) for i, v in enumerate(values))
        if self.weighted:
            return math.fsum((o.weight or 0.0) * v for o, v in zip(self.objectives, values, strict=True))
        return values[0]

    @property
    def baseline_metric(self) -> float:
        return self.metric(self.baseline)

    @cached_property
    def target(self) -> float:
        """What `metric` must reach: 0 with separate targets (it is a margin then)."""
        if self.separate:
            return 0.0
        return self._target(self.baseline_metric, self.higher_is_better)

    def meets(self, values: Sequence[float]) -> bool:
        """Whether a trial with these metrics meets the goal; NaN and infinities never do."""
        if not all(math.isfinite(v) for v in values):
            return False
        if self.separate:
            return all(
                _reaches(v, self._target(b, o.higher_is_better), o.higher_is_better)
                for v, b, o in zip(values, self.baseline, self.objectives, strict=True)
            )
        return _reaches(self.metric(values), self.target, self.higher_is_better)

    def shortfall(self, values: Sequence[float]) -> float:
        """How far from the goal, 0 when it is met: "nearest" is the smallest of these."""
        if self.meets(values):
            return 0.0
        gap = self.target - self.metric(values)
        return gap if self.higher_is_better else -gap

    def _target(self, base: float, higher_is_better: bool) -> float:
        loss = self.tolerable_loss * (abs(base) if self.criterion == "relative" else 1.0)
        return base - loss if higher_is_better else base + loss

    def _margin(self, value: float, index: int) -> float:
        base, higher = self.baseline[index], self.objectives[index].higher_is_better
        gap = value - self._target(base, higher)
        return (gap if higher else -gap) / (abs(base) or 1.0)


def _reaches(value: float, target: float, higher_is_better: bool) -> bool:
    slack = 1e-12 * max(1.0, abs(target))
    return value >= target - slack if higher_is_better else value <= target + slack
