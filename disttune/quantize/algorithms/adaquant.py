"""AdaQuant: learns the weights themselves by gradient descent through the rounding.

Rules:
1. Weights move freely, the error is that of their codes, and the slope passes the rounding as if there was
   none ("straight through"), inside the range of codes only. So a code may end several steps from its weight.
2. As in `adaround`, every iteration sees all samples through the Gram matrix and nothing is drawn at random.
3. Steps are measured in codes, so one `learning_rate` suits all layers; they shrink along half a cosine. More
   than the 80 iterations of the default gain nothing on 33 real layers.
4. Every iteration's codes are judged, of each column the best are kept. When a fifth of the iterations bring
   nothing to any column, they end.
5. The scales and biases that the paper learns along are found in closed form (`learning`): with `bias` the
   error counts less its mean, and what the mean error is in the end goes into the bias. Without it that is
   left to bias correction, a pass of its own.
"""

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from disttune.quantize.algorithms.layer import LayerProblem, LayerSolution
from disttune.quantize.algorithms.learning import Best, Learned, solve_by_learning
from disttune.quantize.algorithms.registry import register_layer_algorithm
from disttune.quantize.algorithms.relaxation import Adam, Float32s, Relaxation, column_losses

_FORGET = 0.999
_PATIENCE = 0.2  # of the iterations: rule 4


@register_layer_algorithm("adaquant")
class AdaQuant:
    """Adaptive quantization. Source: Hubara et al. 2020 (arXiv:2006.10518), 3.1; rules 2 to 5 differ."""

    needs_inputs: ClassVar[bool] = True

    def solve(self, problem: LayerProblem) -> LayerSolution:
        iterations = int(problem.scheme.option("iterations"))
        learning_rate = float(problem.scheme.option("learning_rate"))
        inputs = problem.inputs
        moves = bool(problem.scheme.option("bias")) and not problem.scheme.option("sequential")
        return solve_by_learning(
            problem,
            lambda block: _learn(_Weights.of(block), iterations, learning_rate),
            with_bias=moves and problem.takes_shift and inputs is not None and inputs.cross is None,
        )


@dataclass(frozen=True, slots=True, eq=False)
class _Weights:
    """Weights of a block as codes beside those that they start from; shapes (n_parts, K, n_columns).

    Args:
        block: the columns.
        wanted: the float weight.
        lowest, highest: code.
    """

    block: Relaxation
    wanted: Float32s
    lowest: Float32s
    highest: Float32s

    @classmethod
    def of(cls, block: Relaxation) -> Self:
        wanted, lowest, highest = (
            (end - block.start).astype(np.float32) for end in (block.target, *block.codes)
        )
        return cls(block, wanted, lowest, highest)

    def rounded(self, weight: Float32s) -> Float32s:
        codes = np.rint(weight)
        return np.clip(codes, self.lowest, self.highest, out=codes)

    def error(self, codes: Float32s) -> Float32s:
        error = self.wanted - codes
        error *= self.block.steps
        return error

    def inside(self, weight: Float32s) -> NDArray[np.bool_]:
        """Where the slope passes: rule 1."""
        return (weight >= self.lowest - np.float32(0.5)) & (weight <= self.highest + np.float32(0.5))


def _learn(weights: _Weights, iterations: int, learning_rate: float) -> Learned:
    """Descend from the float weights."""
    weight, adam = weights.wanted.copy(), Adam(weights.wanted.shape, _FORGET)
    codes = np.zeros_like(weight)
    error = weights.error(codes)
    best = Best(codes, column_losses(error, weights.block.pull(error)), iterations)
    n_done = bettered = 0
    while n_done < iterations and n_done - bettered <= _PATIENCE * iterations:
        codes = weights.rounded(weight)
        error = weights.error(codes)
        pull = weights.block.pull(error)
        if best.offer(codes, column_losses(error, pull)):
            bettered = n_done
        pull *= weights.block.steps
        np.negative(pull, out=pull)
        pull *= weights.inside(weight)
        direction = adam.direction(pull)
        direction *= np.float32(learning_rate * (1 + np.cos(np.pi * n_done / iterations)) / 2)
        weight -= direction
        n_done += 1
        best.mark(n_done)
    return best.learned(weights.block.start + best.values.astype(np.int32), n_done)
