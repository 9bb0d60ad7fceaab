"""K-quant: scale and minimum of each group by weighted least squares over trial codes; needs no data.

Rules:
1. An error counts by the root mean square of the group + the magnitude of the value it is of.
2. Trial codes come of 21 ranges, of one level fewer to one more than there are; for each the scale and the
   minimum that fit its codes best. Symmetric codes have no minimum: the scale alone.
3. The minimum stays at or below zero, so that zero has a code; it is rounded to a zero point, and the codes
   are made anew. What costs least then is kept, plain rounding being among what is tried.
"""

from collections.abc import Iterator
from typing import ClassVar

import numpy as np

from disttune.config.schemes import Scheme
from disttune.quantize.algorithms.grid import (
    Grid,
    Parameters,
    check_integer_codes,
    furthest_on_lowest,
    grid_from,
    has_signed_scales,
)
from disttune.quantize.algorithms.layer import Floats, LayerProblem, LayerSolution
from disttune.quantize.algorithms.registry import register_layer_algorithm
from disttune.quantize.algorithms.rounded import Rounded
from disttune.quantize.parameters import Codes, affine_arrays

_SHIFTS = np.linspace(-1, 1, 21)  # levels
_TINY = float(np.finfo(np.float32).tiny)


@register_layer_algorithm("k_quant")
class KQuant:
    """Source: llama.cpp, ggml-quants.c (make_qkx2_quants, make_qx_quants); onnxruntime's lacks rule 3."""

    needs_inputs: ClassVar[bool] = False

    def solve(self, problem: LayerProblem) -> LayerSolution:
        scheme, weight = problem.scheme, problem.weight
        check_integer_codes(scheme, weight)
        plain = Rounded.plainly(weight, scheme, signed=has_signed_scales(scheme))
        codes = plain.grid.codes
        grid = grid_from(weight, scheme, codes, lambda rows: _best(rows, scheme, codes))
        return Rounded(grid, grid.round(weight)).solution_without_data(problem, plain)


def _best(rows: Floats, scheme: Scheme, codes: Codes) -> Parameters:
    """Scale and zero point of each row, rule 3."""
    importance = np.abs(rows) + np.sqrt(np.square(rows).mean(axis=1, keepdims=True))
    low, high = rows.min(axis=1, initial=0), rows.max(axis=1, initial=0)
    signed = has_signed_scales(scheme)
    if signed:
        scale, zero_point = furthest_on_lowest(rows, codes)
    else:
        scale, zero_point = affine_arrays(low, high, scheme.dtype, scheme.symmetric)
    least = _cost(rows, importance, scale, zero_point, codes)
    reach = np.where(high > -low, high, low) if signed else -np.maximum(high, -low)
    tries = (
        _symmetric(rows, importance, codes, reach)
        if scheme.symmetric
        else _asymmetric(rows, importance, codes)
    )
    for tried_scale, tried_zero in tries:
        usable = np.isfinite(tried_scale) & (np.abs(tried_scale) > _TINY)
        usable &= (tried_scale > 0) | signed
        tried = np.where(usable, tried_scale, scale).astype(np.float32)
        zero = np.where(usable, tried_zero, zero_point)
        cost = _cost(rows, importance, tried, zero, codes)
        better = cost < least
        scale, zero_point = np.where(better, tried, scale), np.where(better, zero, zero_point)
        least = np.where(better, cost, least)
    return scale, zero_point.astype(np.int32)


def _cost(
    rows: Floats, importance: Floats, scale: np.ndarray, zero_point: np.ndarray, codes: Codes
) -> Floats:
    grid = Grid(scale[None, :, None], zero_point[None, :, None], codes)
    error = rows - grid.values(grid.round(rows[None]))[0]
    return np.asarray((importance * np.square(error)).sum(axis=1))


def _asymmetric(rows: Floats, importance: Floats, codes: Codes) -> Iterator[tuple[Floats, Floats]]:
    low = rows.min(axis=1, initial=0, keepdims=True)
    width = rows.max(axis=1, initial=0, keepdims=True) - low
    n_levels = codes[1] - codes[0]
    total, total_x = importance.sum(axis=1), (importance * rows).sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):  # what is not finite is not used
        for shift in _SHIFTS:
            levels = np.clip(np.rint((n_levels + shift) / width * (rows - low)), 0, n_levels)
            sum_l = (importance * levels).sum(axis=1)
            sum_ll = (importance * np.square(levels)).sum(axis=1)
            sum_xl = (importance * rows * levels).sum(axis=1)
            spread = total * sum_ll - np.square(sum_l)
            scale = (total * sum_xl - total_x * sum_l) / spread
            minimum = (sum_ll * total_x - sum_l * sum_xl) / spread
            scale = np.where(minimum > 0, sum_xl / sum_ll, scale)
            zero_point = np.rint(-np.minimum(minimum, 0) / scale) + codes[0]
            yield scale, np.clip(np.nan_to_num(zero_point), *codes)


def _symmetric(
    rows: Floats, importance: Floats, codes: Codes, reach: Floats
) -> Iterator[tuple[Floats, Floats]]:
    """Scales by which about `reach`, shape (n_rows,), falls on the lowest code."""
    middle = (codes[0] + codes[1] + 1) // 2
    half = middle - codes[0]
    zero_point = np.full(len(rows), float(middle))
    with np.errstate(divide="ignore", invalid="ignore"):
        for shift in _SHIFTS:
            steps = -(half + shift) / reach[:, None] * rows
            levels = np.clip(np.rint(steps), codes[0] - middle, codes[1] - middle)
            sum_ll = (importance * np.square(levels)).sum(axis=1)
            yield (importance * rows * levels).sum(axis=1) / sum_ll, zero_point
