"""What weight algorithms minimise: the squared error of a layer's output, from the Gram matrix of its inputs.

For one part Y = X W with H = X^T X the codes' values V cost |X W - X V|^2 = sum over columns of d^T H d,
d = w - v. Where the quantized model gives other inputs Xq, |X W - Xq V|^2 is, up to a constant, the same of
H = Xq^T Xq and the weight that makes up for the inputs, argmin |X W - Xq A|.
"""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from disttune.config.errors import TrialError
from disttune.quantize.algorithms.inverse_factor import inverse_factor
from disttune.quantize.algorithms.layer import Floats, LayerProblem

_RIDGE = 1e-2  # of the mean of the diagonal, as GPTQ's damping
_STILL = 1e-9  # of a mean square: a variance below it is rounding
_MOST_CHANGE = 0.5  # of the weight's norm: beyond it the correction fits noise


@dataclass(frozen=True, slots=True, eq=False)
class Objective:
    """The cost of one part.

    Args:
        weight: what the values should be, shape (K, N); the layer's own where the inputs are.
        gram: H, shape (K, K), symmetric.
        n_rows: T; at least 1.
    """

    weight: Floats
    gram: Floats
    n_rows: int = 1

    def centered(self, total: Floats) -> Self:
        """The same where a bias takes out the mean error: H of the inputs less their mean.

        An input that never changes counts nothing.

        Args:
            total: sum of the inputs, shape (K,).
        """
        gram = self.gram - np.outer(total, total) / self.n_rows
        still = np.diag(gram) <= _STILL * np.diag(self.gram)
        gram[still] = gram[:, still] = 0.0
        return replace(self, gram=gram)

    @classmethod
    def of_parts(cls, problem: LayerProblem) -> list[Self]:
        """The costs of all parts of a layer; raises as `of`."""
        return [cls.of(problem, i) for i in range(len(problem.weight))]

    @classmethod
    def of(cls, problem: LayerProblem, part: int) -> Self:
        """The cost of a part of a layer.

        Raises:
            TrialError: nothing is known of the layer's inputs, or what is known is not finite.
        """
        inputs = problem.inputs
        if inputs is None:
            raise TrialError(
                f"op {problem.name}: weight method {problem.scheme.method} needs calibration data, and there "
                "are none of this layer's inputs"
            )
        weight, gram = problem.weight[part], inputs.gram[part]
        cross = None if inputs.cross is None else inputs.cross[part]
        if not np.isfinite(gram).all() or (cross is not None and not np.isfinite(cross).all()):
            raise TrialError(f"op {problem.name}: its inputs hold NaN or infinity. Leave it in float32.")
        if cross is not None:
            weight = _corrected(weight, gram, cross)
        return cls(weight, gram, max(inputs.n_rows, 1))

    def losses(self, values: Floats) -> Floats:
        """d^T H d of each column, shape (N,).

        Args:
            values: shape (K, N).
        """
        error = self.weight - values
        losses: Floats = np.einsum("kn,kn->n", error, self.gram @ error)
        return losses


def mean_error(weight: Floats, quantized: Floats, mean: Floats) -> Floats:
    """E[X W - X V] for each output, group after group.

    Args:
        weight, quantized: W and V, shape (n_parts, K, N).
        mean: E[X], shape (n_parts, K).
    """
    return np.asarray(np.einsum("pk,pkn->pn", mean, weight - quantized).reshape(-1))


def _corrected(weight: Floats, gram: Floats, cross: Floats) -> Floats:
    """argmin over A of |X W - Xq A|^2 + ridge |A - W|^2, or the weight itself where that goes too far."""
    factor = inverse_factor(gram, _RIDGE)
    if factor is None:
        return weight
    change = factor.T @ (factor @ ((cross - gram) @ weight))
    if not np.isfinite(change).all() or np.linalg.norm(change) > _MOST_CHANGE * np.linalg.norm(weight):
        return weight
    return np.asarray(weight + change)
