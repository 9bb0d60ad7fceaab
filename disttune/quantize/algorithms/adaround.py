"""AdaRound: learns for each weight whether it is rounded up or down, by gradient descent on the output error.

Rules:
1. Every code is floor(w / s) + z or one more. The choice is relaxed to h in [0, 1], a stretched sigmoid of a
   free variable, and a penalty of lambda (1 - |2h - 1|^beta) that grows steeper as beta falls drives h to
   its ends. What the range of codes clips, and what is only ever multiplied by zero, keeps its rounding.
2. The error and its slope come from the Gram matrix: every iteration sees all samples, nothing is drawn at
   random, and the same problem gives the same bits.
3. lambda is `reg_param` times what turning this one code alone costs, s^2 H_kk / 2. That has no unit, so one
   value suits all layers; with the paper's 0.01 half of a layer's variables may stay undecided. Adam forgets
   squared slopes fast (0.9), because the penalty's steepness changes all the time. On 33 real layers at 4
   bits this reaches in 200 iterations what 0.999 and one lambda for a layer reach in 1000.
4. Iterations end early when nine of ten choices are made: what is left, coordinate descent decides as well
   (on 28 real layers the error is the same within 0.1 %). Of each column the best codes seen are kept.

The activation behind a layer is not looked at: the Gram matrix says nothing of what a ReLU cuts off.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from disttune.config.schemes import Scheme
from disttune.quantize.algorithms.layer import LayerProblem, LayerSolution
from disttune.quantize.algorithms.learning import Best, Learned, solve_by_learning
from disttune.quantize.algorithms.registry import register_layer_algorithm
from disttune.quantize.algorithms.relaxation import Adam, Float32s, Relaxation, column_losses

_STRETCH = np.float32(1.2)  # the sigmoid reaches from -0.1 to 1.1, so that h arrives at 0 and 1
_SHIFT = np.float32(0.1)
_FORGET = 0.9  # rule 3
_FEW_LEFT = 0.1  # rule 4
_UNDECIDED = 1e-4  # h starts this far from its ends, where the sigmoid is not yet flat


@register_layer_algorithm("adaround")
class AdaRound:
    """Adaptive rounding. Source: Nagel et al. 2020 (arXiv:2004.10568); rules 2 and 3 differ."""

    needs_inputs: ClassVar[bool] = True

    def solve(self, problem: LayerProblem) -> LayerSolution:
        schedule = _Schedule.of(problem.scheme)
        return solve_by_learning(problem, lambda block: _learn(_Choices.of(block), schedule))


@dataclass(frozen=True, slots=True)
class _Schedule:
    """Options of the method."""

    iterations: int
    learning_rate: np.float32
    reg_param: np.float32
    beta_start: float
    beta_end: float
    warm_start: float

    @classmethod
    def of(cls, scheme: Scheme) -> Self:
        value = {name: float(scheme.option(name)) for name in cls.__slots__}
        return cls(
            int(value["iterations"]),
            np.float32(value["learning_rate"]),
            np.float32(value["reg_param"]),
            value["beta_start"],
            value["beta_end"],
            value["warm_start"],
        )

    def beta(self, iteration: int) -> float | None:
        """Falls along half a cosine; None before the penalty sets in."""
        warm = self.warm_start * self.iterations
        if iteration < warm:
            return None
        progress = (iteration - warm) / (self.iterations - warm)
        return float(self.beta_end + (self.beta_start - self.beta_end) * (1 + np.cos(np.pi * progress)) / 2)


@dataclass(frozen=True, slots=True, eq=False)
class _Choices:
    """Up or down for each weight of a block; all arrays of shape (n_parts, K, n_columns).

    Args:
        block: the columns.
        low: code of rounding down.
        open: whether there is a choice.
        fraction: of the wanted weight between both codes; 0 where there is no choice.
        steps: how much less the error is one code up; 0 where there is no choice.
        fixed: error where there is no choice, else 0.
    """

    block: Relaxation
    low: NDArray[np.int32]
    open: NDArray[np.bool_]
    fraction: Float32s
    steps: Float32s
    fixed: Float32s

    @classmethod
    def of(cls, block: Relaxation) -> Self:
        low = np.floor(np.clip(block.target, block.codes[0] - 1, block.codes[1] + 1))
        is_open = (low >= block.codes[0]) & (low < block.codes[1]) & (block.power > 0)
        fixed = block.steps * (block.target - block.start)
        return cls(
            block=block,
            low=low.astype(np.int32),
            open=is_open,
            fraction=np.where(is_open, block.target - low, 0).astype(np.float32),
            steps=block.steps * is_open,
            fixed=np.where(is_open, 0, fixed).astype(np.float32),
        )

    @property
    def started_up(self) -> NDArray[np.bool_]:
        return (self.block.start > self.low) & self.open

    def error(self, h: NDArray[Any]) -> Float32s:
        """Of weights rounded up by this much."""
        error: Float32s = self.fraction - h
        error *= self.steps
        error += self.fixed
        return error

    def losses(self, up: NDArray[np.bool_]) -> Float32s:
        """Of each column by these choices, shape (n_parts, 1, n_columns)."""
        error = self.error(up)
        return column_losses(error, self.block.pull(error))

    def codes(self, up: NDArray[np.bool_]) -> NDArray[np.int32]:
        return np.where(self.open, self.low + up, self.block.start).astype(np.int32)

    def variable(self) -> Float32s:
        """At which h is the fraction."""
        fraction = np.clip(self.fraction, _UNDECIDED, 1 - _UNDECIDED)
        return np.asarray(-np.log(_STRETCH / (fraction + _SHIFT) - 1), np.float32)


def _learn(choices: _Choices, schedule: _Schedule) -> Learned:
    """Descend from the fractions until few choices are left; rule 4."""
    up = choices.started_up
    best = Best(up, choices.losses(up), schedule.iterations)
    variable, adam = choices.variable(), Adam(up.shape, _FORGET)
    penalty = schedule.reg_param * np.square(choices.steps) * choices.block.power
    few = _FEW_LEFT * np.count_nonzero(choices.open)
    n_done = 0
    while n_done < schedule.iterations:
        slope = _slope(choices, variable, penalty, schedule.beta(n_done))
        if np.count_nonzero(slope) <= few:
            break
        direction = adam.direction(slope)
        direction *= schedule.learning_rate
        variable -= direction
        n_done += 1
        if best.is_judged(n_done):
            up = variable >= 0
            best.offer(up, choices.losses(up))
            best.mark(n_done)
    up = variable >= 0
    best.offer(up, choices.losses(up))
    return best.learned(choices.codes(best.values), n_done)


def _slope(choices: _Choices, variable: Float32s, penalty: Float32s, beta: float | None) -> Float32s:
    """Slope of error and penalty by the free variable, over 2.4: Adam does not see a common factor."""
    sigmoid = np.exp(-variable)
    sigmoid += 1
    np.reciprocal(sigmoid, out=sigmoid)
    h = sigmoid * _STRETCH
    h -= _SHIFT
    undecided = (h > 0) & (h < 1)
    np.clip(h, 0, 1, out=h)
    slope = choices.block.pull(choices.error(h))
    slope *= choices.steps
    np.negative(slope, out=slope)
    if beta is not None:
        slope -= _penalty_slope(h, penalty, beta)
    slope *= sigmoid
    np.subtract(1, sigmoid, out=sigmoid)
    slope *= sigmoid
    slope *= undecided
    return slope


def _penalty_slope(h: Float32s, penalty: Float32s, beta: float) -> Float32s:
    """How fast the penalty falls with h, halved; written over h."""
    h *= 2
    h -= 1
    size = np.abs(h)
    np.power(size, np.float32(beta - 1), out=size)
    size *= penalty
    size *= np.float32(beta)
    return np.copysign(size, h, out=h)
