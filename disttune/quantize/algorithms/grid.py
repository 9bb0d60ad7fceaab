"""The codes that a layer's weight may take and what they stand for: every weight algorithm rounds to this.

Rules:
1. value = (code - zero point) * scale, the scale being a float32 number.
2. code = round(value / scale) + zero point, divided in float32, rounded half to even, kept inside the codes
   that the range was spread over: what `quantize.weights` does, so plain rounding gives the same codes.
3. Symmetric codes below 8 bits may have signed scales, where groups have them: the value furthest from zero
   falls on the lowest code, so that all codes are used and nothing but values near the opposite end clips.
4. Ranges contain zero. A group is `group_size` rows of K; the last one may be shorter, and its range is then
   that of its own rows.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from disttune.config.errors import TrialError
from disttune.config.schemes import FLOAT8_DTYPES, METHODS, Scheme
from disttune.quantize.algorithms.layer import Floats, LayerSolution
from disttune.quantize.parameters import Codes, code_range, parameter_arrays
from disttune.quantize.thresholds.registry import slice_ranges

CodeArray = NDArray[np.int32]
Parameters = tuple[NDArray[np.float32], NDArray[Any]]  # scale, zero point


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """Scales and zero points of a layer.

    Args:
        scale: float32, not zero; shape (1, 1, 1), (n_parts, 1, N) or (n_parts, n_groups, N).
        zero_point: int32, or float32 where it may lie between codes; shape of `scale`.
        codes: lowest and highest code in use.
        group_size: rows of K that share a scale; None: all.
    """

    scale: NDArray[np.float32]
    zero_point: NDArray[Any]
    codes: Codes
    group_size: int | None = None

    def part(self, index: int) -> Self:
        """The grid of one part; of its arrays the first axis is 1."""
        i = index if self.scale.shape[0] > 1 else 0
        return replace(self, scale=self.scale[i : i + 1], zero_point=self.zero_point[i : i + 1])

    def steps(self, n_rows: int) -> Floats:
        """Scales in a shape that broadcasts against a weight of so many rows, float64."""
        return self.for_rows(self.scale, n_rows).astype(np.float64)

    def zeros(self, n_rows: int) -> Floats:
        """Zero points in a shape that broadcasts against a weight of so many rows, float64."""
        return self.for_rows(self.zero_point, n_rows).astype(np.float64)

    def round(self, weight: Floats) -> CodeArray:
        """Rule 2.

        Args:
            weight: shape (n_parts, K, N).
        """
        n_rows = weight.shape[-2]
        with np.errstate(over="ignore"):  # beyond float32 is beyond the codes as well
            steps = weight.astype(np.float32) / self.for_rows(self.scale, n_rows)
        zero_point = self.for_rows(self.zero_point, n_rows)
        if np.issubdtype(zero_point.dtype, np.integer):
            steps = np.rint(steps) + zero_point
        else:
            steps = np.rint(steps + zero_point)
        codes: CodeArray = np.clip(steps, *self.codes).astype(np.int32)
        return codes

    def values(self, codes: CodeArray) -> Floats:
        """Rule 1, in float64; codes of shape (n_parts, K, N)."""
        return (codes - self.zeros(codes.shape[-2])) * self.steps(codes.shape[-2])

    def sums(self, costs: Floats) -> Floats:
        """Sums of what each value costs over the values that share a scale; shape (n_parts, n_groups, N).

        Args:
            costs: shape (n_parts, K, N).
        """
        return np.add.reduceat(costs, range(0, costs.shape[1], self.group_size or costs.shape[1]), axis=1)

    def solution(self, codes: CodeArray, **report: float) -> LayerSolution:
        """A layer's codes on this grid."""
        return LayerSolution(codes, self.scale, self.zero_point, report=report)

    def in_groups(self, weight: NDArray[Any]) -> NDArray[Any]:
        """A weight (n_parts, K, N) as (n_parts, n_groups, group, N), or itself where that cannot be."""
        size = self.group_size
        if size is None or weight.shape[1] % size:
            return weight
        return weight.reshape(weight.shape[0], -1, size, weight.shape[2])

    def for_groups(self, values: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
        """What is said of each scale, in a shape that broadcasts against what `in_groups` gives."""
        return values[:, :, np.newaxis] if len(shape) == 4 else self.for_rows(values, shape[1])

    def for_rows(self, values: NDArray[Any], n_rows: int) -> NDArray[Any]:
        """What is said of each scale, in a shape that broadcasts against a weight of so many rows."""
        if self.group_size is None:
            return values
        return np.repeat(values, self.group_size, axis=-2)[..., :n_rows, :]


def grid_of(weight: Floats, scheme: Scheme, threshold: str = "minmax", *, signed: bool = False) -> Grid:
    """The grid of a layer's weight by its scheme.

    Args:
        weight: shape (n_parts, K, N).
        scheme: its granularity gives the shape of the scales; an integer type.
        threshold: key of `METHODS`: how the range of each slice is found.
        signed: rule 3, with "minmax".
    Raises:
        TrialError: the weight holds NaN or infinity, or the type is float8.
    """
    plain = replace(scheme, method=threshold, parameter=METHODS[threshold], options=())

    def parameters(rows: Floats) -> Parameters:
        scale, zero_point = parameter_arrays(*slice_ranges(rows.astype(np.float32), plain), plain)
        return scale, zero_point.astype(np.int32)

    check_integer_codes(scheme, weight)
    codes = code_range(scheme.dtype, scheme.symmetric, reduce_range=scheme.reduce_range)
    if signed and threshold == "minmax":
        return grid_from(weight, scheme, codes, lambda rows: furthest_on_lowest(rows, codes))
    return grid_from(weight, scheme, codes, parameters)


def has_signed_scales(scheme: Scheme) -> bool:
    """Whether rule 3 is for a scheme; with a scale for each column, biases need scales above zero."""
    grouped = scheme.symmetric and scheme.granularity == "per_group" and scheme.dtype not in FLOAT8_DTYPES
    lowest, highest = code_range(scheme.dtype) if grouped else (0, 255)
    return highest - lowest < 255 and not scheme.reduce_range


def furthest_on_lowest(rows: Floats, codes: Codes) -> Parameters:
    """Rule 3 for slices as rows: float32 arithmetic as in onnxruntime; zeros have scale 1."""
    values = rows.astype(np.float32)
    return furthest_of_range(values.min(axis=1, initial=0), values.max(axis=1, initial=0), codes)


def furthest_of_range(low: NDArray[np.float32], high: NDArray[np.float32], codes: Codes) -> Parameters:
    """Rule 3 for slices with these ranges, zero being in them."""
    half = (codes[1] - codes[0] + 1) // 2
    furthest = np.where(high > -low, high, low).astype(np.float32)
    scale = never_zero(furthest / np.float32(-half))
    return scale, np.full(low.shape, codes[0] + half, np.int32)


def never_zero(scale: NDArray[np.float32]) -> NDArray[np.float32]:
    """1 for scales whose reciprocal is no float32 number."""
    return np.where(np.abs(scale) < np.finfo(np.float32).tiny, np.float32(1), scale)


def check_integer_codes(scheme: Scheme, weight: Floats) -> None:
    """Raise TrialError where a weight has no integer codes by a scheme."""
    if scheme.dtype in FLOAT8_DTYPES:
        raise TrialError(f"weight method {scheme.method} gives integer codes; {scheme.dtype} has none")
    if not np.isfinite(weight).all():
        raise TrialError("the weight holds NaN or infinity, which have no code. Leave the op in float32.")


def grid_from(
    weight: Floats, scheme: Scheme, codes: Codes, parameters: Callable[[Floats], Parameters]
) -> Grid:
    """A grid whose scales and zero points a function finds for slices of the weight.

    Args:
        weight: shape (n_parts, K, N).
        scheme: its granularity makes the slices.
        codes: lowest and highest in use.
        parameters: of slices as rows (n_slices, n_values) to scale and zero point, each (n_slices,).
    """
    n_parts, n_rows, n_columns = weight.shape
    if scheme.granularity == "per_tensor":
        scale, zero_point = parameters(weight.reshape(1, -1))
        return Grid(scale.reshape(1, 1, 1), zero_point.reshape(1, 1, 1), codes)
    size = scheme.group_size or max(n_rows, 1)
    n_whole = n_rows // size * size
    found = []
    for part, length in ((weight[:, :n_whole], size), (weight[:, n_whole:], n_rows - n_whole)):
        if part.shape[1]:  # all whole groups together, then the short one at the end
            groups = part.reshape(n_parts, -1, length, n_columns).swapaxes(2, 3)
            found.append([v.reshape(groups.shape[:3]) for v in parameters(groups.reshape(-1, length))])
    scales = np.concatenate([scale for scale, _ in found], axis=1)
    zero_points = np.concatenate([zero_point for _, zero_point in found], axis=1)
    return Grid(scales, zero_points, codes, scheme.group_size)


def grid_from_ranges(
    weight: NDArray[np.float32],
    scheme: Scheme,
    codes: Codes,
    parameters: Callable[[NDArray[np.float32], NDArray[np.float32]], Parameters],
) -> Grid:
    """As `grid_from`, where the range of a slice is all that has to be known of it.

    Args:
        weight: shape (n_parts, K, N).
        scheme: its granularity makes the slices.
        codes: lowest and highest in use.
        parameters: of the lowest and highest values, zero among them, to scale and zero point, in that shape.
    """
    zero = np.float32(0)
    if scheme.granularity == "per_tensor":
        low, high = weight.min(keepdims=True, initial=zero), weight.max(keepdims=True, initial=zero)
    else:
        starts = range(0, weight.shape[1], scheme.group_size or weight.shape[1])
        low = np.minimum(np.minimum.reduceat(weight, starts, axis=1), zero)
        high = np.maximum(np.maximum.reduceat(weight, starts, axis=1), zero)
    return Grid(*parameters(low, high), codes, scheme.group_size)
