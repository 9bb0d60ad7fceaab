"""int32 biases, against onnxruntime's quantizer."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

from disttune.config.errors import TrialError
from disttune.quantize.bias import bias_codes

INT32_MAX = 2**31 - 1
scales = st.floats(2.0**-30, 2.0**4, width=32)
biases = st.one_of(st.floats(-10, 10, width=32), st.floats(-(2.0**30), 2.0**30, width=32), st.just(0.0))


def grown_by_onnxruntime(bias: np.ndarray, scale_x: float, scale_w: np.ndarray) -> np.ndarray:
    tensor = numpy_helper.from_array(bias, "b")
    _, scale = QDQQuantizer._adjust_weight_scale_for_int32_bias(
        SimpleNamespace(), np.array(scale_x, np.float32), scale_w.copy(), "w", tensor, scale_w.ndim > 0
    )
    return scale


@settings(deadline=None)
@given(st.lists(st.tuples(biases, scales), min_size=1, max_size=6), scales, st.booleans())
def test_scale_grows_as_in_onnxruntime(channels, scale_x, per_channel):
    bias, scale_w = (np.array(values, np.float32) for values in zip(*channels, strict=True))
    scale_w = scale_w if per_channel else scale_w[0]
    made = bias_codes(bias, scale_x, scale_w)
    np.testing.assert_allclose(made.weight_scale, grown_by_onnxruntime(bias, scale_x, scale_w), rtol=3e-7)
    grown = made.weight_scale > scale_w
    assert (made.ratio is None) == (not grown.any())
    if made.ratio is not None:
        np.testing.assert_allclose(made.ratio, made.weight_scale.astype(float) / scale_w, rtol=1e-7)


@settings(deadline=None)
@given(st.lists(st.tuples(biases, scales), min_size=1, max_size=6), scales)
def test_codes_are_the_bias_in_units_of_the_scale(channels, scale_x):
    """Rounded half to even in float64, as in onnxruntime; never saturated where the scale may grow."""
    bias, scale_w = (np.array(values, np.float32) for values in zip(*channels, strict=True))
    made = bias_codes(bias, scale_x, scale_w)
    np.testing.assert_array_equal(made.scale, np.float32(scale_x) * made.weight_scale)
    wanted = [round(float(b) / float(s)) for b, s in zip(bias, made.scale, strict=True)]
    assert made.codes.tolist() == wanted
    assert made.codes.dtype == np.int32


def test_bias_saturates_where_the_scale_may_not_grow():
    made = bias_codes(np.array([1e9, -1e9, 1.0], np.float32), 0.1, np.float32(0.1), may_grow=False)
    assert made.codes.tolist() == [INT32_MAX, -INT32_MAX - 1, 100]
    assert made.ratio is None


def test_beta_of_gemm_is_part_of_the_units():
    made = bias_codes(np.array([1.0], np.float32), 0.5, np.array([0.25], np.float32), beta=2.0)
    assert (made.codes.tolist(), made.scale.tolist()) == ([4], [0.25])


def test_product_of_scales_below_float32_has_a_scale_still():
    made = bias_codes(np.zeros(2, np.float32), 1e-30, np.array([1e-30, 1.0], np.float32))
    assert (made.scale > 0).all()
    assert made.codes.tolist() == [0, 0]
    grown = bias_codes(np.array([1.0], np.float32), 1e-30, np.array([1e-30], np.float32))
    assert grown.codes[0] * float(grown.scale[0]) == pytest.approx(1.0)


def test_bias_without_values():
    assert bias_codes(np.zeros(0, np.float32), 0.1, np.float32(0.1)).codes.shape == (0,)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_bias_that_is_not_finite_is_refused(value):
    with pytest.raises(TrialError, match="the bias holds NaN or infinity"):
        bias_codes(np.array([value], np.float32), 0.1, np.float32(0.1))
