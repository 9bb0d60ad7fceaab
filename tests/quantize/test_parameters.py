"""Scales and zero points, against onnxruntime's own functions and against exact fractions."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from onnx import TensorProto
from onnxruntime.quantization.quant_utils import compute_scale_zp, get_qmin_qmax_for_qType

from disttune.config.errors import TrialError
from disttune.config.schemes import FLOAT8_DTYPES, INTEGER_DTYPES, WEIGHT_DTYPES, Scheme
from disttune.quantize.parameters import (
    affine,
    affine_arrays,
    code_range,
    float8_max,
    float8_std,
    float8_values,
    levels_of,
    next_power_of_two,
    parameters,
)

TINY = float(np.finfo(np.float32).tiny)
float32s = st.floats(width=32, allow_nan=False, allow_infinity=False)
ends = st.one_of(float32s, st.floats(-10, 10, width=32), st.sampled_from([0.0, -0.0, 1e-38, -1e-45, 3.4e38]))
dtypes = st.sampled_from([dtype for dtype in INTEGER_DTYPES if dtype not in WEIGHT_DTYPES])


def onnx_type(dtype: str) -> int:
    return TensorProto.DataType.Value(dtype.upper())


@settings(deadline=None)
@given(ends, ends, dtypes, st.booleans(), st.booleans())
@example(-1.0, 169.0, "uint8", False, False)  # a tie that the rounded scale would miss: zero point 2, not 1
def test_affine_equals_onnxruntime(first, second, dtype, symmetric, reduce_range):
    rmin, rmax = np.array(min(first, second), np.float32), np.array(max(first, second), np.float32)
    codes = get_qmin_qmax_for_qType(onnx_type(dtype), reduce_range, symmetric)
    zero_point, scale = compute_scale_zp(rmin, rmax, *codes, symmetric)

    ours = affine(float(rmin), float(rmax), dtype, symmetric, reduce_range=reduce_range)

    assert ours == (np.float32(scale), int(zero_point))
    assert code_range(dtype, symmetric, reduce_range=reduce_range) == (int(codes[0]), int(codes[1]))


@settings(deadline=None)
@given(st.lists(st.tuples(ends, ends), min_size=1, max_size=9), dtypes, st.booleans())
def test_many_ranges_at_once_give_what_each_gives(ranges, dtype, symmetric):
    rmin, rmax = (np.array(side) for side in zip(*(sorted(r) for r in ranges), strict=True))
    scales, zero_points = affine_arrays(rmin, rmax, dtype, symmetric)
    singles = [affine(low, high, dtype, symmetric) for low, high in zip(rmin, rmax, strict=True)]
    assert [(s, int(z)) for s, z in zip(scales, zero_points, strict=True)] == singles


@settings(deadline=None)
@given(st.floats(-100, 0, width=32), st.floats(0, 100, width=32), dtypes, st.booleans(), st.data())
def test_every_value_in_range_is_off_by_half_a_step_at_most(rmin, rmax, dtype, symmetric, data):
    """With fractions: no rounding but that of the codes."""
    scale, zero_point = affine(rmin, rmax, dtype, symmetric)
    value = data.draw(st.floats(rmin, rmax, width=32))
    if (rmax - rmin) / 2**16 < TINY:
        return
    first, last = code_range(dtype, symmetric)
    step = Fraction(float(scale))
    code = min(max(round(Fraction(value) / step) + zero_point, first), last)
    off = abs((code - zero_point) * step - Fraction(value))
    assert off <= step / 2 + Fraction(float(np.spacing(np.float32(max(-rmin, rmax)))))
    again = round((code - zero_point) * step / step) + zero_point
    assert again == code


@settings(deadline=None)
@given(ends, ends, dtypes, st.booleans(), st.booleans())
def test_zero_is_exact(first, second, dtype, symmetric, reduce_range):
    _, zero_point = affine(
        min(first, second), max(first, second), dtype, symmetric, reduce_range=reduce_range
    )
    least, most = code_range(dtype, symmetric, reduce_range=reduce_range)
    assert least <= zero_point <= most


@pytest.mark.parametrize("rmax", [0.0, 1e-45, 1e-40, TINY])
@pytest.mark.parametrize("dtype", INTEGER_DTYPES + FLOAT8_DTYPES)
@pytest.mark.parametrize("symmetric", [True, False])
def test_a_range_without_width_has_scale_one(rmax, dtype, symmetric):
    assert affine(0.0, rmax, dtype, symmetric) == (np.float32(1), 0)


@pytest.mark.parametrize("ends", [(-np.inf, 1.0), (0.0, np.inf), (np.nan, 1.0), (0.0, np.nan)])
def test_a_range_that_is_not_finite_is_refused(ends):
    with pytest.raises(TrialError, match=r"a range of .* cannot be quantized: it must be finite"):
        affine(*ends, "int8", True)


def test_widest_range_of_float32_has_a_finite_scale():
    most = float(np.finfo(np.float32).max)
    scale, zero_point = affine(-most, most, "uint4", False)
    assert np.isfinite(scale)
    assert zero_point == 8


@pytest.mark.parametrize(("dtype", "most"), [("float8e4m3fn", 448), ("float8e5m2", 57344)])
def test_float8_scale_puts_the_largest_magnitude_on_the_largest_value(dtype, most):
    assert affine(-3.0, 7.0, dtype, False) == (np.float32(7 / most), 0)
    assert affine(-3.0, 7.0, dtype, True, reduce_range=True) == (np.float32(7 / most), 0)
    assert float8_max(dtype) == most


def test_float8_values_are_those_of_the_format():
    """By hand: sign, 4 bits of exponent with bias 7, 3 of mantissa; no infinity."""
    positive = [m / 8 * 2.0**-6 for m in range(8)]
    positive += [(1 + m / 8) * 2.0 ** (e - 7) for e in range(1, 16) for m in range(8)]
    positive.remove(480.0)  # NaN takes its code
    every = sorted({v for p in positive for v in (p, -p)})
    np.testing.assert_array_equal(float8_values("float8e4m3fn"), every)


def test_float8_deviation_is_that_of_onnxruntime():
    from onnxruntime.quantization.quant_utils import compute_scale_zp_float8

    _, scale = compute_scale_zp_float8(TensorProto.FLOAT8E4M3FN, np.float32(1))
    assert 1 / float8_std("float8e4m3fn") == pytest.approx(float(scale), rel=1e-6)


@settings(deadline=None)
@given(st.floats(TINY, 2.0**120, width=32))
def test_next_power_of_two_is_the_least_that_is_not_below(scale):
    raised = float(next_power_of_two(scale))
    assert Fraction(raised) / 2 < Fraction(scale) <= Fraction(raised)
    assert np.frexp(raised)[0] == 0.5


@settings(deadline=None)
@given(st.floats(-100, 0, width=32), st.floats(0, 100, width=32), dtypes, st.booleans())
def test_power_of_two_scale_clips_nothing_that_the_plain_one_does_not(rmin, rmax, dtype, symmetric):
    plain, _ = affine(rmin, rmax, dtype, symmetric)
    scale, zero_point = affine(rmin, rmax, dtype, symmetric, power_of_two=True)
    first, last = code_range(dtype, symmetric)
    assert plain <= scale < 2 * plain
    room = float(scale) * 0.501  # onnxruntime's symmetric unsigned codes are half a step short themselves
    assert (first - zero_point) * float(scale) <= rmin + room
    assert (last - zero_point) * float(scale) >= rmax - room


def test_parameters_of_a_power_of_two_method_have_such_a_scale():
    assert parameters(-1.0, 3.0, Scheme("uint8", False, method="pow2_nonoverflow")) == (np.float32(2**-5), 32)
    assert parameters(-1.0, 3.0, Scheme("uint8", False)) == affine(-1.0, 3.0, "uint8", False)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int4", "float8e4m3fn", "float8e5m2"])
@pytest.mark.parametrize("symmetric", [True, False])
def test_levels_are_what_the_codes_stand_for(dtype, symmetric):
    scheme = Scheme(dtype, symmetric)
    scale, zero_point = parameters(-1.0, 3.0, scheme)
    if dtype in FLOAT8_DTYPES:
        every = float8_values(dtype) * np.float64(scale)
    else:
        first, last = code_range(dtype)
        every = (np.arange(first, last + 1) - zero_point) * np.float64(scale)
    levels = levels_of(np.array([-1.0]), np.array([3.0]), scheme)
    assert (levels.lowest[0], levels.highest[0]) == (every[0], every[-1])
    np.testing.assert_allclose(levels.edges[0], (every[1:] + every[:-1]) / 2, rtol=1e-14)
    np.testing.assert_allclose(np.broadcast_to(levels.gaps[0], every.size - 1), np.diff(every), rtol=1e-9)
