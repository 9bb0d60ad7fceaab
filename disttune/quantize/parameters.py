"""Scale and zero point from a range: integer types as onnxruntime computes them, float8, powers of two.

Rules, in the order of onnxruntime's `compute_scale_zp`:
1. The range is made to contain zero. A symmetric scheme widens it to its larger end on both sides.
2. scale = width / (highest code - lowest code) in fp64. Below the least normal float32 the range counts as
   empty: scale 1, zero point 0.
3. The zero point is computed from the fp64 scale, rounded half to even and kept inside the codes; a
   symmetric scheme has the middle of the codes (0, 128, 32768, 8).
4. The scale is rounded to float32 last. float8 has scale = larger end / largest value, zero point 0.
5. Power-of-two methods then raise the float32 scale to the next power of two, so that nothing clips
   that did not before, and compute an asymmetric zero point from that.

Symmetric codes below 8 bits are all in use (-8 to 7 with scale 2 * absmax / 15), and unsigned ones have scale
2 * absmax / (2**bits - 1), as in onnxruntime: no value is off by more than half a step, and the step is
finer than that of the narrow range (absmax / 7), which makes the mean error smaller as well.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import ArrayLike, NDArray

from disttune.config.errors import TrialError
from disttune.config.schemes import FLOAT8_DTYPES, Scheme

FloatArray = NDArray[np.float64]
Float32Array = NDArray[np.float32]
IntArray = NDArray[np.int64]
Range = tuple[float, float]  # rmin, rmax
Codes = tuple[int, int]  # lowest, highest

_BITS = (*range(2, 9), 16)
_FULL: dict[str, Codes] = {f"uint{bits}": (0, 2**bits - 1) for bits in _BITS}
_FULL |= {f"int{bits}": (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) for bits in _BITS}
_SYMMETRIC = {"int8": (-127, 127), "int16": (-32767, 32767)}
_REDUCED: dict[str, Codes] = (
    _FULL
    | {  # one bit less: sums of two products stay inside 16 bits on CPUs without VNNI
        "int8": (-64, 64),
        "uint8": (0, 127),
        "int16": (-16384, 16384),
        "uint16": (0, 32767),
        "int4": (-4, 3),
        "uint4": (0, 7),
    }
)
_FLOAT8: dict[str, Any] = {
    "float8e4m3fn": ml_dtypes.float8_e4m3fn,
    "float8e5m2": ml_dtypes.float8_e5m2,
}
_TINY = float(np.finfo(np.float32).tiny)


def code_range(dtype: str, symmetric: bool = False, *, reduce_range: bool = False) -> Codes:
    """Lowest and highest code that a range is spread over.

    Args:
        dtype: an integer type.
        symmetric: int8 and int16 leave out their lowest code then.
        reduce_range: use 7 of 8 bits (15 of 16, 3 of 4), whether symmetric or not; other types use all.
    """
    if reduce_range:
        return _REDUCED[dtype]
    return _SYMMETRIC[dtype] if symmetric and dtype in _SYMMETRIC else _FULL[dtype]


def affine(
    rmin: float,
    rmax: float,
    dtype: str,
    symmetric: bool,
    *,
    reduce_range: bool = False,
    power_of_two: bool = False,
) -> tuple[np.float32, int]:
    """Scale and zero point of one range.

    Args:
        rmin, rmax: in units of the tensor; need not contain zero.
        dtype: integer or float8 type of the codes.
        symmetric: see rule 1; float8 is always symmetric.
        reduce_range: use one bit less; float8 ignores it.
        power_of_two: see rule 5.
    Raises:
        TrialError: an end is NaN or infinite.
    Source: onnxruntime 1.31, quant_utils.compute_scale_zp. Float8: absmax / largest value, where
        onnxruntime takes the standard deviation (method "distribution" does that).
    """
    scale, zero_point = affine_arrays(
        rmin, rmax, dtype, symmetric, reduce_range=reduce_range, power_of_two=power_of_two
    )
    return np.float32(scale), int(zero_point)


def affine_arrays(
    rmin: ArrayLike,
    rmax: ArrayLike,
    dtype: str,
    symmetric: bool,
    *,
    reduce_range: bool = False,
    power_of_two: bool = False,
) -> tuple[Float32Array, IntArray]:
    """`affine` of many ranges at once; arrays of any equal shape."""
    low, exact = _scales(rmin, rmax, dtype, symmetric, reduce_range)
    empty = exact < _TINY
    scale = np.where(empty, 1.0, exact).astype(np.float32)
    if power_of_two:
        scale = next_power_of_two(scale)
        exact = scale.astype(np.float64)
    if dtype in FLOAT8_DTYPES:
        return scale, np.zeros(scale.shape, np.int64)
    lowest, highest = code_range(dtype, symmetric, reduce_range=reduce_range)
    if symmetric:
        zero_point = np.full(scale.shape, np.rint((lowest + highest) / 2))
    else:
        zero_point = np.clip(np.rint(lowest - low / np.where(empty, 1.0, exact)), lowest, highest)
    return scale, np.where(empty, 0, zero_point).astype(np.int64)


def parameters(rmin: float, rmax: float, scheme: Scheme) -> tuple[np.float32, int]:
    """Scale and zero point of a range by its scheme: `affine`, with rule 5 for power-of-two methods.

    Raises:
        TrialError: an end is NaN or infinite.
    """
    scale, zero_point = parameter_arrays(rmin, rmax, scheme)
    return np.float32(scale), int(zero_point)


def parameter_arrays(rmin: ArrayLike, rmax: ArrayLike, scheme: Scheme) -> tuple[Float32Array, IntArray]:
    """`parameters` of many ranges at once; arrays of any equal shape."""
    return affine_arrays(
        rmin,
        rmax,
        scheme.dtype,
        scheme.symmetric,
        reduce_range=scheme.reduce_range,
        power_of_two=has_power_of_two_scale(scheme),
    )


def is_symmetric(scheme: Scheme) -> bool:
    """Whether ranges of a scheme end at the same distance on both sides of zero."""
    return scheme.symmetric or scheme.dtype in FLOAT8_DTYPES


def has_power_of_two_scale(scheme: Scheme) -> bool:
    """Whether a scheme's method asks for scales that are powers of two."""
    return scheme.method.startswith("pow2_")


def next_power_of_two(scale: ArrayLike) -> Float32Array:
    """Least power of two that is not below a scale (> 0, finite)."""
    mantissa, exponent = np.frexp(np.asarray(scale, np.float64))
    return np.asarray(np.ldexp(1.0, exponent - (mantissa == 0.5)), np.float32)


def float8_type(dtype: str) -> Any:
    """numpy type of a float8 dtype."""
    return _FLOAT8[dtype]


@cache
def float8_values(dtype: str) -> Float32Array:
    """Every finite value of a float8 type, sorted; zero once."""
    values = np.arange(256, dtype=np.uint8).view(_FLOAT8[dtype]).astype(np.float32)
    return np.unique(values[np.isfinite(values)])


def float8_max(dtype: str) -> float:
    """Largest finite value: 448 or 57344."""
    return float(float8_values(dtype)[-1])


@cache
def float8_std(dtype: str) -> float:
    """Standard deviation over the finite codes of a float8 type, both zeros among them; e4m3fn: 100.06."""
    values = np.arange(256, dtype=np.uint8).view(_FLOAT8[dtype]).astype(np.float64)
    return float(np.std(values[np.isfinite(values)]))


@dataclass(frozen=True, slots=True, eq=False)
class Levels:
    """What each of n quantizers can represent.

    Args:
        lowest, highest: the outermost levels, shape (n,); what lies beyond saturates to them.
        edges: where rounding goes over to the next level, ascending, shape (n, n_levels - 1).
        gaps: distance of the levels on both sides of an edge, shape (n, n_levels - 1) or (n, 1).
    """

    lowest: FloatArray
    highest: FloatArray
    edges: FloatArray
    gaps: FloatArray


def levels_of(
    rmin: FloatArray,
    rmax: FloatArray,
    scheme: Scheme,
    codes: Codes | None = None,
) -> Levels:
    """The levels of the quantizers that `parameters` gives for ranges.

    Args:
        rmin, rmax: shape (n,).
        scheme: of all of them.
        codes: codes in use; None: all of the type, as QuantizeLinear saturates. float8 uses all.
    """
    scale, zero_point = parameter_arrays(rmin, rmax, scheme)
    scales = scale.astype(np.float64)[:, None]
    if scheme.dtype in FLOAT8_DTYPES:
        values = float8_values(scheme.dtype).astype(np.float64)
        edges = scales * ((values[1:] + values[:-1]) / 2)
        return Levels(scales[:, 0] * values[0], scales[:, 0] * values[-1], edges, scales * np.diff(values))
    first, last = codes or _FULL[scheme.dtype]
    zero = zero_point.astype(np.float64)
    edges = scales * (np.arange(first, last) + 0.5 - zero[:, None])
    return Levels(scales[:, 0] * (first - zero), scales[:, 0] * (last - zero), edges, scales)


def _scales(
    rmin: ArrayLike, rmax: ArrayLike, dtype: str, symmetric: bool, reduce_range: bool
) -> tuple[FloatArray, FloatArray]:
    """Rules 1 and 2: the lower end of the widened range and the fp64 scale."""
    low = np.minimum(np.asarray(rmin, np.float64), 0.0)
    high = np.maximum(np.asarray(rmax, np.float64), 0.0)
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise TrialError(
            f"a range of {np.min(low)} to {np.max(high)} cannot be quantized: it must be finite. "
            "Leave the ops around this tensor in float32."
        )
    if symmetric or dtype in FLOAT8_DTYPES:
        high = np.maximum(-low, high)
        low = -high
    if dtype in FLOAT8_DTYPES:
        return low, high / float8_max(dtype)
    lowest, highest = code_range(dtype, symmetric, reduce_range=reduce_range)
    return low, (high - low) / (highest - lowest)
