"""RTN, plain rounding, to the bit as onnxruntime's blockwise quantizer does it for MatMulNBits.

Rules:
1. Asymmetric: the range is made to contain zero and spread over all codes.
2. Symmetric: the value furthest from zero, w, falls on the lowest code: scale = w / -2^(bits - 1), which is
   negative for w > 0. All codes are used, and nothing but values near -w clips.
3. Values are multiplied by the reciprocal of the scale in float32, halves rounded up.
4. A group of zeros has scale 1 (onnxruntime's has 0, and means the same).
5. With `mse`, the range with the least squared error where that beats rules 1 to 3.
"""

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from disttune.quantize.algorithms.grid import (
    CodeArray,
    Grid,
    Parameters,
    check_integer_codes,
    furthest_of_range,
    grid_from_ranges,
    never_zero,
)
from disttune.quantize.algorithms.layer import LayerProblem, LayerSolution
from disttune.quantize.algorithms.registry import register_layer_algorithm
from disttune.quantize.algorithms.rounded import Rounded
from disttune.quantize.parameters import Codes, code_range


@register_layer_algorithm("rtn")
class Rtn:
    """Source: onnxruntime 1.31, mlas/lib/q4_dq.cpp; rule 2 is llama.cpp's Q4_0."""

    needs_inputs: ClassVar[bool] = False

    def solve(self, problem: LayerProblem) -> LayerSolution:
        scheme, weight = problem.scheme, problem.weight
        check_integer_codes(scheme, weight)
        codes = code_range(scheme.dtype, reduce_range=scheme.reduce_range)
        parameters = furthest_of_range if scheme.symmetric else _asymmetric
        values = weight.astype(np.float32)
        grid = grid_from_ranges(values, scheme, codes, lambda low, high: parameters(low, high, codes))
        plain = Rounded(grid, _codes(values, grid))
        found = plain
        if scheme.option("mse"):
            found = plain.with_less_error(Rounded.plainly(weight, scheme, "mse"), weight)
        return found.solution_without_data(problem, plain)


def _asymmetric(low: NDArray[np.float32], high: NDArray[np.float32], codes: Codes) -> Parameters:
    """Rule 1."""
    lowest, highest = codes
    scale = (high - low) / np.float32(highest - lowest)
    zero_point = np.floor((-low / never_zero(scale)).astype(np.float64) + 0.5)
    return never_zero(scale), (np.clip(zero_point, 0, highest - lowest) + lowest).astype(np.int32)


def _codes(weight: NDArray[np.float32], grid: Grid) -> CodeArray:
    """Rule 3."""
    lowest, highest = grid.codes
    groups = grid.in_groups(weight)
    steps = groups * grid.for_groups(np.float32(1) / grid.scale, groups.shape)
    steps += grid.for_groups((grid.zero_point - lowest).astype(np.float32), groups.shape)
    whole = np.floor(steps)
    steps -= whole
    whole += steps >= 0.5  # exact, where adding 0.5 would round
    np.clip(whole, 0, highest - lowest, out=whole)
    codes: CodeArray = whole.astype(np.int32).reshape(weight.shape)
    codes += lowest
    return codes
