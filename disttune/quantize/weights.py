"""Weights as codes: per tensor, per channel or per group.

Rules:
1. codes = round(weight / scale) + zero point, divided in float32 and rounded half to even as in
   onnxruntime's tool, and kept inside the codes that the range was spread over.
2. A group is a run of `group_size` elements along the axis; the last one may be shorter, its range is that of
   its own elements. Scales then have the weight's shape but for the axis.
3. Codes of up to 4 bits are held one to the byte, and packed two to the byte, the low four bits first;
   those of 5 to 7 bits are bytes: a type that ONNX lacks goes as the next larger one.
4. float8 is held as the bits of its codes.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from disttune.config.errors import TrialError
from disttune.config.schemes import FLOAT8_DTYPES, Scheme
from disttune.quantize.parameters import (
    Codes,
    Float32Array,
    code_range,
    float8_max,
    float8_type,
    parameter_arrays,
)
from disttune.quantize.thresholds.registry import slice_ranges

CodeArray = NDArray[np.integer[Any]]
Weight = NDArray[np.floating[Any]]
SLICE_BYTES = 2**24  # of a weight that is computed with at a time: several copies are made on the way
HELD_AS: dict[str, type[np.integer[Any]]] = {
    "int16": np.int16,
    "uint16": np.uint16,
    "float8e4m3fn": np.uint8,
    "float8e5m2": np.uint8,
    **{f"int{bits}": np.int8 for bits in range(2, 9)},
    **{f"uint{bits}": np.uint8 for bits in range(2, 9)},
}
FOUR_BIT_DTYPES = tuple(f"{sign}int{bits}" for bits in (2, 3, 4) for sign in ("", "u"))  # rule 3


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedWeight:
    """A weight's codes, and what they mean.

    Args:
        codes: shape of the weight; rules 3 and 4.
        scale: float32; shape () per tensor, (n_channels,) per channel, rule 2 per group.
        zero_point: type of the codes, or float32 for MatMulNBits; shape of the scale.
        dtype: that of the scheme.
        axis: of the channels, or along which groups run; None per tensor.
        block_size: elements of a group; None without groups.
        code_range: lowest and highest code in use; None for float8.
    """

    codes: CodeArray
    scale: Float32Array
    zero_point: NDArray[Any]
    dtype: str
    axis: int | None = None
    block_size: int | None = None
    code_range: Codes | None = None

    def dequantized(self) -> Float32Array:
        """What the codes stand for, as DequantizeLinear computes it; shape of the weight."""
        scale = self.for_each_value(self.scale)
        if self.dtype in FLOAT8_DTYPES:
            return np.asarray(self.codes.view(float8_type(self.dtype)).astype(np.float32) * scale)
        steps = self.codes.astype(np.float32) - self.for_each_value(self.zero_point).astype(np.float32)
        return np.asarray(steps * scale)

    def rescaled(self, weight: Weight, scale: NDArray[np.floating[Any]]) -> Self:
        """The same weight with other scales and the same zero points.

        Args:
            weight: the float weight.
            scale: shape of `self.scale`; values beyond the codes saturate.
        """
        values = np.asarray(weight, np.float32)
        scales, zero_points = self.for_each_value(scale), self.for_each_value(self.zero_point)
        codes = np.empty(values.shape, HELD_AS[self.dtype])
        for rows in _slices(values):
            arrays = (values[rows], _rows_of(scales, rows, values), _rows_of(zero_points, rows, values))
            codes[rows] = _codes(*arrays, self.dtype, self.code_range)
        return replace(self, codes=codes, scale=np.asarray(scale, np.float32))

    def for_each_value(self, values: NDArray[Any]) -> NDArray[Any]:
        """Parameters in a shape that broadcasts against the codes."""
        if self.axis is None:
            return values
        if self.block_size is None:
            shape = [1] * self.codes.ndim
            shape[self.axis] = -1
            return values.reshape(shape)
        spread = np.repeat(values, self.block_size, axis=self.axis)
        return np.take(spread, range(self.codes.shape[self.axis]), axis=self.axis)


def quantize_weight(weight: Weight, scheme: Scheme, axis: int | None = None) -> QuantizedWeight:
    """A weight's codes by a scheme.

    Args:
        weight: any shape, also empty.
        scheme: its method gives the range of each tensor, channel or group.
        axis: of the channels, or along which groups run; may be negative. With None, per channel is per
            tensor.
    Raises:
        TrialError: the weight holds NaN or infinity, or groups have no axis or no size.
    """
    values = np.asarray(weight, np.float32)
    if not all(np.isfinite(values[rows]).all() for rows in _slices(values)):
        raise TrialError("the weight holds NaN or infinity, which have no code. Leave the op in float32.")
    grouped = scheme.granularity == "per_group"
    if grouped and (axis is None or not scheme.group_size):
        raise TrialError(f"{scheme}: groups need an axis to run along and a size")
    axis = _axis(values, scheme, axis)
    scale, zero_point = _parameters(values, scheme, axis)
    return QuantizedWeight(
        codes=np.zeros(values.shape, HELD_AS[scheme.dtype]),
        scale=scale,
        zero_point=zero_point,
        dtype=scheme.dtype,
        axis=axis,
        block_size=scheme.group_size if grouped else None,
        code_range=code_range_of(scheme),
    ).rescaled(values, scale)


def code_range_of(scheme: Scheme) -> Codes | None:
    """Lowest and highest code that weights of a scheme use; None for float8."""
    if scheme.dtype in FLOAT8_DTYPES:
        return None
    return code_range(scheme.dtype, scheme.symmetric, reduce_range=scheme.reduce_range)


def packed(codes: CodeArray, dtype: str) -> bytes:
    """Codes in ONNX's `raw_data`: little endian; rule 3."""
    flat = np.ravel(codes)
    if dtype not in FOUR_BIT_DTYPES:
        return flat.astype(flat.dtype.newbyteorder("<"), copy=False).tobytes()
    halves = np.zeros(flat.size + flat.size % 2, np.uint8)
    halves[: flat.size] = flat.astype(np.uint8) & 0xF
    return (halves[::2] | halves[1::2] << 4).tobytes()


def _axis(values: Float32Array, scheme: Scheme, axis: int | None) -> int | None:
    """The axis as a number from 0 on; None where there is one scale for all."""
    if axis is None or scheme.granularity == "per_tensor" or not values.ndim:
        return None
    return range(values.ndim)[axis]


def _parameters(values: Float32Array, scheme: Scheme, axis: int | None) -> tuple[Float32Array, CodeArray]:
    """Scale and zero point of the tensor, of each channel, or of each group."""
    if axis is None:
        shape: tuple[int, ...] = ()
        parts = iter([values.reshape(1, -1)])
    elif scheme.granularity == "per_channel":
        shape = (values.shape[axis],)
        n_values = values.size // max(values.shape[axis], 1)
        channels = np.moveaxis(values, axis, 0)
        slices = (channels[rows] for rows in _slices(channels))
        parts = (part.reshape(len(part), n_values) for part in slices)
    else:
        assert scheme.group_size
        n_groups = -(-values.shape[axis] // scheme.group_size)
        shape = (n_groups, *values.shape[:axis], *values.shape[axis + 1 :])
        parts = _groups(np.moveaxis(values, axis, 0), scheme.group_size)
    found = [parameter_arrays(*slice_ranges(rows, scheme), scheme) for rows in parts]
    scale = np.concatenate([scale for scale, _ in found]).reshape(shape)
    zero_point = np.concatenate([zero for _, zero in found]).astype(HELD_AS[scheme.dtype]).reshape(shape)
    if axis is not None and scheme.granularity == "per_group":
        scale, zero_point = np.moveaxis(scale, 0, axis), np.moveaxis(zero_point, 0, axis)
    return scale.copy(), zero_point.copy()


def _slices(values: NDArray[Any]) -> list[Any]:
    """Parts along axis 0 that are small enough to be computed with at a time."""
    if not values.ndim or values.nbytes <= SLICE_BYTES:
        return [...]
    n_rows = max(1, SLICE_BYTES * len(values) // values.nbytes)
    return [slice(i, i + n_rows) for i in range(0, len(values), n_rows)]


def _rows_of(parameters: NDArray[Any], rows: Any, values: NDArray[Any]) -> NDArray[Any]:
    """Parameters of some rows: all of them where they are the same for all rows."""
    differ = rows is not ... and parameters.ndim == values.ndim and len(parameters) > 1
    return parameters[rows] if differ else parameters


def _groups(values: Float32Array, size: int) -> Iterator[Float32Array]:
    """Groups along axis 0 as rows: of all whole groups together, then of the short one at the end."""
    n, n_others = values.shape[0], values.size // max(values.shape[0], 1)
    flat = values.reshape(n, n_others)
    n_whole = n // size
    whole = flat[: n_whole * size].reshape(n_whole, size, n_others)
    yield whole.swapaxes(1, 2).reshape(n_whole * n_others, size)
    if n_whole * size < n:
        yield flat[n_whole * size :].T


def _codes(
    values: Float32Array,
    scale: Float32Array,
    zero_point: CodeArray,
    dtype: str,
    used: Codes | None,
) -> CodeArray:
    """Rule 1; parameters broadcast against the values."""
    with np.errstate(over="ignore"):  # beyond float32 is beyond the codes as well
        steps = np.asarray(values / scale)  # a scalar without dimensions is no array otherwise
    if used is None:
        most = float8_max(dtype)
        return np.asarray(np.clip(steps, -most, most).astype(float8_type(dtype)).view(np.uint8))
    np.rint(steps, out=steps)
    steps += zero_point.astype(np.float32)
    codes: CodeArray = np.clip(steps, *used).astype(HELD_AS[dtype])
    return codes
