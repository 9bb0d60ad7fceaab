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

from disttune.quantize.algorithms.grid import (
    CodeArray,
    Grid,
    Parameters,
    check_integer_codes,
    furthest_on_lowest,
    grid_from,
    never_zero,
)
from disttune.quantize.algorithms.layer import Floats, LayerProblem, LayerSolution
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
        parameters = furthest_on_lowest if scheme.symmetric else _asymmetric
        grid = grid_from(weight, scheme, codes, lambda rows: parameters(rows, codes))
        plain = Rounded(grid, _codes(weight, grid))
        found = plain
        if scheme.option("mse"):
            found = plain.with_less_error(Rounded.plainly(weight, scheme, "mse"), weight)
        return found.solution_without_data(problem, plain)


def _asymmetric(rows: Floats, codes: Codes) -> Parameters:
    """Rule 1."""
    lowest, highest = codes
    values = rows.astype(np.float32)
    low, high = values.min(axis=1, initial=0), values.max(axis=1, initial=0)
    scale = (high - low) / np.float32(highest - lowest)
    zero_point = np.floor((-low / never_zero(scale)).astype(np.float64) + 0.5)
    return never_zero(scale), (np.clip(zero_point, 0, highest - lowest) + lowest).astype(np.int32)


def _codes(weight: Floats, grid: Grid) -> CodeArray:
    """Rule 3."""
    lowest, highest = grid.codes
    n_rows = weight.shape[1]
    zeros = (grid.for_rows(grid.zero_point, n_rows) - lowest).astype(np.float32)
    steps = weight.astype(np.float32)
    steps *= grid.for_rows(np.float32(1) / grid.scale, n_rows)
    steps += zeros
    whole = np.floor(steps)
    whole += steps - whole >= 0.5  # exact, where adding 0.5 would round
    np.clip(whole, 0, highest - lowest, out=whole)
    codes = whole.astype(np.int32)
    codes += lowest
    return codes
