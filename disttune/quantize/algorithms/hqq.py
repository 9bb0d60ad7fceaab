"""HQQ: moves the zero point so that most weights lose little and a few may lose much; needs no data.

Rules:
1. Minimises sum |w - v|^0.7 by half-quadratic splitting: E, the errors that may stay, is W - V shrunk;
   the zero point is then the mean of C - (W - E) / scale over the group, C being the codes.
2. A group keeps the best zero point that it has come by, and plain rounding where none is better.
3. Zero points are codes, unless `float_zero_point`: MatMulNBits takes such, DequantizeLinear does not.
"""

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from disttune.config.errors import TrialError
from disttune.quantize.algorithms.grid import Parameters, grid_from
from disttune.quantize.algorithms.layer import Floats, LayerProblem, LayerSolution
from disttune.quantize.algorithms.registry import register_layer_algorithm
from disttune.quantize.algorithms.rounded import Rounded
from disttune.quantize.parameters import Codes, affine_arrays

_POWER = 0.7
_BETA, _GROWTH = 10.0, 1.01
_TINY = 1e-8


@register_layer_algorithm("hqq")
class Hqq:
    """Source: Badri and Shaji 2023, "Half-Quadratic Quantization"; constants as there and in onnxruntime.

    There all groups of a weight stop together, and the zero points after the best ones are returned.
    """

    needs_inputs: ClassVar[bool] = False

    def solve(self, problem: LayerProblem) -> LayerSolution:
        scheme, weight = problem.scheme, problem.weight
        if scheme.symmetric:
            raise TrialError(f"op {problem.name}: hqq moves zero points, which symmetric codes do not have")
        plain = Rounded.plainly(weight, scheme)
        iterations = int(scheme.option("iterations"))
        as_float = scheme.option("float_zero_point") is True

        def parameters(rows: Floats) -> Parameters:
            scale, zero_point = affine_arrays(
                rows.min(axis=1, initial=0), rows.max(axis=1, initial=0), scheme.dtype, symmetric=False
            )
            best = _zero_points(rows, scale.astype(np.float64), zero_point, plain.grid.codes, iterations)
            if as_float:
                return scale, best.astype(np.float32)
            return scale, np.clip(np.rint(best), *plain.grid.codes).astype(np.int32)

        grid = grid_from(weight, scheme, plain.grid.codes, parameters)
        found = Rounded(grid, grid.round(weight))
        return plain.with_less_error(found, weight, _POWER).solution_without_data(problem, plain)


def _zero_points(rows: Floats, scale: Floats, start: NDArray[Any], codes: Codes, iterations: int) -> Floats:
    """The best zero point of each row, shape (n_rows,)."""
    step, zero, beta = scale[:, None], start.astype(np.float64)[:, None], _BETA
    best, least = zero, np.full_like(zero, np.inf)
    for _ in range(iterations + 1):
        found = np.clip(np.rint(rows / step + zero), *codes)
        error = rows - (found - zero) * step
        cost = (np.abs(error) ** _POWER).sum(axis=1, keepdims=True)
        better = cost < least
        if not better.any():
            break
        best, least = np.where(better, zero, best), np.where(better, cost, least)
        size = np.abs(error)
        stays = np.sign(error) * np.maximum(size - (size + _TINY) ** (_POWER - 1) / beta, 0)
        zero = (found - (rows - stays) / step).mean(axis=1, keepdims=True)
        beta *= _GROWTH
    return best[:, 0]
