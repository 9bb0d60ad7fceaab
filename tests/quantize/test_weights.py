"""Codes of weights, against onnxruntime's tool, onnx's own casts and slow plain loops."""

from dataclasses import replace

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization.quant_utils import (
    compute_data_quant_params,
    compute_scale_zp_blocked,
    quantize_data,
)

from disttune.config.errors import TrialError
from disttune.config.schemes import (
    FLOAT8_DTYPES,
    INTEGER_DTYPES,
    METHODS,
    QUANTIZED_DTYPES,
    WEIGHT_DTYPES,
    Scheme,
)
from disttune.quantize.parameters import code_range, float8_values
from disttune.quantize.thresholds.registry import slice_ranges
from disttune.quantize.weights import packed, quantize_weight
from tests.quantize import plain_weights

RANDOM = np.random.default_rng(7)
KNOWN_DTYPES = [dtype for dtype in INTEGER_DTYPES if dtype not in WEIGHT_DTYPES]  # to onnxruntime
weights = st_numpy.arrays(
    np.float32,
    st_numpy.array_shapes(min_dims=2, max_dims=3, max_side=6),
    elements=st.one_of(
        st.floats(-1, 1, width=32),
        st.floats(-(2.0**100), 2.0**100, width=32),
        st.sampled_from([0.0, 1e-40, 1e-38, 3e38]),
    ),
)


def onnx_type(dtype: str) -> int:
    return TensorProto.DataType.Value(dtype.upper())


def inside(codes: np.ndarray, dtype: str, symmetric: bool, reduce_range: bool) -> np.ndarray:
    """onnxruntime's codes; those that leave a reduced range by rounding, cut to it.

    A range from -a to a has a scale of 2 * a / 127 in reduced uint8 and its zero at 64: the largest value is
    at 127.5, which rounds to 128, a code of eight bits.
    """
    codes = codes.astype(np.int64)
    if not reduce_range:
        return codes
    first, last = code_range(dtype, symmetric, reduce_range=True)
    assert codes.min() >= first - 1
    assert codes.max() <= last + 1
    return np.clip(codes, first, last)


@settings(deadline=None)
@given(weights, st.sampled_from(KNOWN_DTYPES), st.booleans(), st.booleans())
def test_codes_per_tensor_equal_those_of_onnxruntime(weight, dtype, symmetric, reduce_range):
    zero_point, scale, codes = quantize_data(weight.ravel(), onnx_type(dtype), symmetric, reduce_range)
    ours = quantize_weight(weight, Scheme(dtype, symmetric, reduce_range=reduce_range))
    np.testing.assert_array_equal(ours.codes.ravel(), inside(codes, dtype, symmetric, reduce_range))
    assert ours.scale == scale
    assert ours.zero_point == zero_point
    assert ours.scale.shape == ours.zero_point.shape == ()


@settings(deadline=None)
@given(weights, st.sampled_from(KNOWN_DTYPES), st.booleans(), st.booleans(), st.data())
def test_codes_per_channel_equal_those_of_onnxruntime(weight, dtype, symmetric, reduce_range, data):
    axis = data.draw(st.integers(-weight.ndim, weight.ndim - 1))
    ours = quantize_weight(weight, Scheme(dtype, symmetric, "per_channel", reduce_range=reduce_range), axis)
    assert ours.axis == axis % weight.ndim
    for i in range(weight.shape[axis]):
        channel = weight.take(i, axis)
        zero_point, scale, codes = quantize_data(channel.ravel(), onnx_type(dtype), symmetric, reduce_range)
        wanted = inside(codes, dtype, symmetric, reduce_range)
        np.testing.assert_array_equal(ours.codes.take(i, axis).ravel(), wanted)
        assert (ours.scale[i], ours.zero_point[i]) == (scale, zero_point)


@settings(deadline=None)
@given(
    st_numpy.arrays(
        np.float32, st.tuples(st.integers(1, 9), st.integers(1, 5)), elements=st.floats(-9, 9, width=32)
    ),
    st.sampled_from(["int4", "uint4", "int8", "uint8"]),
    st.booleans(),
    st.integers(0, 1),
    st.integers(1, 10),
)
def test_groups_have_the_scales_of_onnxruntime(weight, dtype, symmetric, axis, size):
    zero_point, scale = compute_scale_zp_blocked(weight, onnx_type(dtype), axis, size, symmetric)
    ours = quantize_weight(weight, Scheme(dtype, symmetric, "per_group", size), axis)
    np.testing.assert_allclose(ours.scale, scale, rtol=2e-7)  # theirs subtracts the ends in float32
    # its zero points come from the rounded scale here, from the exact one elsewhere: they differ at ties
    off = ours.zero_point.astype(int) - zero_point.astype(int)
    if symmetric:
        off[scale == 1] = 0  # a group of zeros: theirs is the middle here, and 0 elsewhere
    assert np.abs(off).max(initial=0) <= 1
    assert (ours.axis, ours.block_size) == (axis, size)


@settings(deadline=None)
@given(weights, st.sampled_from(QUANTIZED_DTYPES), st.booleans(), st.integers(1, 7), st.data())
def test_groups_are_quantized_each_on_its_own(weight, dtype, symmetric, size, data):
    axis = data.draw(st.integers(0, weight.ndim - 1))
    ours = quantize_weight(weight, Scheme(dtype, symmetric, "per_group", size), axis)
    length = weight.shape[axis]
    n_groups = -(-length // size)
    assert ours.scale.shape == (*weight.shape[:axis], n_groups, *weight.shape[axis + 1 :])
    rows, codes = (np.moveaxis(a, axis, -1).reshape(-1, length) for a in (weight, ours.codes))
    scales = np.moveaxis(ours.scale, axis, -1).reshape(-1, n_groups)
    for row, made, scale in zip(rows, codes, scales, strict=True):
        for j in range(n_groups):
            part = slice(j * size, (j + 1) * size)
            alone = quantize_weight(row[part], Scheme(dtype, symmetric))
            np.testing.assert_array_equal(made[part], alone.codes)
            assert scale[j] == alone.scale


@settings(deadline=None)
@given(weights, st.sampled_from(QUANTIZED_DTYPES), st.booleans(), st.booleans())
def test_zeros_stay_zeros_and_all_is_off_by_half_a_step_at_most(weight, dtype, symmetric, reduce_range):
    weight = weight[np.newaxis] * np.float32(0.1)
    ours = quantize_weight(weight, Scheme(dtype, symmetric, "per_channel", reduce_range=reduce_range), 1)
    made = ours.dequantized()
    assert (made[weight == 0] == 0).all()
    shape = (1, -1) + (1,) * (weight.ndim - 2)
    step = ours.scale.reshape(shape).astype(float)
    room = step / 2 if dtype in INTEGER_DTYPES else np.maximum(np.abs(weight) / 8, step * 2.0**-9)
    room = room * (1 + 1e-6) + np.spacing(np.abs(weight)) + 1e-38  # of float32
    assert (np.abs(made - weight.astype(float)) <= room).all()


@pytest.mark.parametrize("dtype", FLOAT8_DTYPES)
@given(
    weight=st_numpy.arrays(np.float32, 20, elements=st.floats(-1000, 1000, width=32)),
    method=st.sampled_from(["minmax", "mse"]),
)
@settings(max_examples=40, deadline=None)
def test_float8_codes_are_those_of_the_nearest_value(weight, method, dtype):
    """By search over all values; ties to the even code."""
    ours = quantize_weight(weight, Scheme(dtype, True, method=method))
    every = float8_values(dtype)
    distances = np.abs((weight / ours.scale)[:, None].astype(float) - every.astype(float))
    nearest = distances.min(axis=1)
    decoded = ours.codes.view({"e4": ml_dtypes.float8_e4m3fn, "e5": ml_dtypes.float8_e5m2}[dtype[6:8]])
    own = np.abs((weight / ours.scale).astype(float) - decoded.astype(float))
    np.testing.assert_array_equal(own, nearest)
    tied = (distances == nearest[:, None]).sum(axis=1) > 1
    assert (ours.codes[tied] % 2 == 0).all()


@pytest.mark.parametrize("dtype", FLOAT8_DTYPES)
def test_float8_codes_equal_those_of_onnx(dtype):
    weight = np.append(RANDOM.standard_normal(1000), [0.0, -0.0]).astype(np.float32)
    ours = quantize_weight(weight, Scheme(dtype, True, method="mse"))
    kind = onnx_type(dtype)
    node = helper.make_node("QuantizeLinear", ["x", "s", "z"], ["y"])
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None])],
        [helper.make_tensor_value_info("y", kind, [None])],
        [numpy_helper.from_array(ours.scale, "s"), helper.make_tensor("z", kind, [], [0.0])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])
    codes = onnx.reference.ReferenceEvaluator(model).run(None, {"x": weight})[0]
    np.testing.assert_array_equal(ours.codes, codes.view(np.uint8))


def test_distribution_per_tensor_gives_the_float8_codes_of_onnxruntime():
    weight = RANDOM.standard_normal(1000).astype(np.float32)
    _, scale, codes = quantize_data(weight, TensorProto.FLOAT8E4M3FN, True)
    ours = quantize_weight(weight, Scheme("float8e4m3fn", True, method="distribution"))
    assert ours.scale == pytest.approx(float(scale), rel=1e-6)
    again = ours.rescaled(weight, np.asarray(scale, np.float32))
    np.testing.assert_array_equal(again.codes, codes.view(np.uint8))


@pytest.mark.parametrize("method", ["mse", "lp", "sqnr", "pow2_mse"])
@pytest.mark.parametrize("reduce_range", [False, True])
@pytest.mark.parametrize(("dtype", "symmetric"), [
    ("int8", True), ("uint8", False), ("int4", True), ("uint4", False), ("float8e4m3fn", True),
])  # fmt: skip
def test_ranges_of_slices_equal_those_of_the_plain_search(method, dtype, symmetric, reduce_range):
    scheme = Scheme(dtype, symmetric, method=method, reduce_range=reduce_range)
    rows = np.stack([RANDOM.standard_normal(12), RANDOM.gamma(1, 1, 12), np.zeros(12), -np.ones(12)])
    skewed = RANDOM.gamma(1, 1, (6, 12)) - 0.3
    rows = np.concatenate((rows, RANDOM.standard_t(2, (2, 12)), skewed)).astype(np.float32)
    found = np.stack(slice_ranges(rows, scheme), axis=1)
    arguments = () if METHODS[method] is None else (METHODS[method],)
    plainly = [plain_weights.PlainSlice(row, scheme) for row in rows]
    wanted = [getattr(plain_weights, method)(values, *arguments) for values in plainly]
    np.testing.assert_allclose(found, wanted, rtol=1e-12)


def test_long_slices_are_searched_in_pieces():
    """Each value twice makes more values than are quantized at a time, and the same range."""
    scheme = Scheme("int4", True, method="mse")
    row = np.sort(RANDOM.standard_normal(100_000)).astype(np.float32)
    assert slice_ranges(row[None], scheme) == slice_ranges(np.repeat(row, 2)[None], scheme)


@pytest.mark.parametrize("percent", [50.0, 99.0, 100.0])
def test_percentile_of_slices_is_that_of_numpy(percent):
    rows = RANDOM.standard_normal((4, 300)).astype(np.float32)
    tail = (100 - percent) / 2
    rmin, rmax = slice_ranges(rows, Scheme("uint8", False, method="percentile", parameter=percent))
    np.testing.assert_allclose([rmin, rmax], np.percentile(rows.astype(float), [tail, 100 - tail], axis=1))
    rmin, rmax = slice_ranges(rows, Scheme("int8", True, method="percentile", parameter=percent))
    reach = np.percentile(np.abs(rows.astype(float)), percent, axis=1)
    np.testing.assert_allclose(rmax, np.minimum(reach, rows.max(axis=1)))
    np.testing.assert_allclose(rmin, np.maximum(-reach, rows.min(axis=1)))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", ["int8", "uint8", "int4", "float8e5m2", "int16"])
@pytest.mark.parametrize("granularity", ["per_tensor", "per_channel", "per_group"])
def test_every_method_quantizes_every_weight(method, dtype, granularity):
    weight = RANDOM.standard_normal((5, 7)).astype(np.float32)
    weight[1], weight[2], weight[3] = 0, 1e-41, 0.25
    scheme = Scheme(dtype, dtype != "uint8", granularity, 4 if granularity == "per_group" else None, method)
    ours = quantize_weight(weight, scheme, 0)
    assert np.isfinite(ours.dequantized()).all()
    assert (ours.scale > 0).all()
    assert np.abs(ours.dequantized() - weight).max() < 3


@pytest.mark.parametrize("method", ["mse", "sqnr", "pow2_mse", "lp", "entropy"])
@pytest.mark.parametrize(("dtype", "first", "last"), [("int8", -64, 64), ("uint8", 0, 127)])
def test_reduced_range_keeps_clipped_codes_in_seven_bits(method, dtype, first, last):
    weight = RANDOM.standard_t(1.5, (4, 500)).astype(np.float32)
    scheme = Scheme(dtype, dtype == "int8", "per_channel", method=method)
    codes = quantize_weight(weight, replace(scheme, reduce_range=True), 0).codes
    assert first <= codes.min()
    assert codes.max() <= last
    assert max(-codes.min().astype(int), codes.max()) > 40


def test_mse_never_ends_worse_than_minmax():
    weight = RANDOM.standard_t(3, (64, 96)).astype(np.float32)
    for dtype, symmetric in (("int4", True), ("uint4", False), ("int8", True), ("float8e4m3fn", True)):
        errors = []
        for method in ("mse", "minmax"):
            made = quantize_weight(weight, Scheme(dtype, symmetric, "per_channel", method=method), 0)
            errors.append(((made.dequantized() - weight) ** 2).sum(axis=1))
        assert (errors[0] <= errors[1] * (1 + 1e-6)).all()


@pytest.mark.parametrize(("dtype", "codes", "kind"), [
    ("int4", [-8, 7, 0, -1, 3], ml_dtypes.int4), ("uint4", [15, 0, 7, 8], ml_dtypes.uint4),
    ("int8", [-128, 127], np.int8), ("uint16", [65535, 1], np.uint16),
])  # fmt: skip
def test_packed_codes_are_what_onnx_stores(dtype, codes, kind):
    held = {"int4": np.int8, "uint4": np.uint8}.get(dtype, kind)
    wanted = numpy_helper.from_array(np.array(codes).astype(kind)).raw_data
    assert packed(np.array(codes, held), dtype) == wanted


@pytest.mark.parametrize(("dtype", "granularity", "size"), [
    ("int4", "per_group", 16), ("uint4", "per_channel", None), ("int8", "per_channel", None),
    ("uint16", "per_tensor", None), ("float8e4m3fn", "per_tensor", None), ("float8e5m2", "per_channel", None),
])  # fmt: skip
def test_dequantized_is_what_onnxruntime_dequantizes(dtype, granularity, size):
    weight = RANDOM.standard_normal((33, 5)).astype(np.float32)
    axis = 0 if granularity == "per_group" else 1
    ours = quantize_weight(weight, Scheme(dtype, dtype.startswith("i"), granularity, size), axis)
    kind = onnx_type(dtype)
    attributes = {} if ours.axis is None else {"axis": ours.axis}
    if ours.block_size:
        attributes["block_size"] = ours.block_size
    graph = helper.make_graph(
        [helper.make_node("DequantizeLinear", ["w", "s", "z"], ["y"], **attributes)],
        "g",
        [],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, weight.shape)],
        [
            helper.make_tensor("w", kind, weight.shape, packed(ours.codes, ours.dtype), raw=True),
            numpy_helper.from_array(ours.scale, "s"),
            helper.make_tensor("z", kind, ours.scale.shape, packed(ours.zero_point, ours.dtype), raw=True),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(session.run(None, {})[0], ours.dequantized())


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), ()])
@pytest.mark.parametrize("granularity", ["per_tensor", "per_channel"])
def test_weights_without_values_or_dimensions_have_codes_too(shape, granularity):
    axis = 0 if shape else None
    ours = quantize_weight(np.zeros(shape, np.float32), Scheme("int8", True, granularity), axis)
    assert ours.codes.shape == shape
    assert (ours.scale == 1).all()
    assert ours.scale.shape == (shape[:1] if granularity == "per_channel" else ())


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weight_that_is_not_finite_is_refused(value):
    with pytest.raises(TrialError, match="the weight holds NaN or infinity"):
        quantize_weight(np.array([1.0, value], np.float32), Scheme("int8", True))


def test_groups_without_a_size_are_refused():
    with pytest.raises(TrialError, match="groups need an axis to run along and a size"):
        quantize_weight(np.ones((2, 2), np.float32), Scheme("int4", True, "per_group"), 0)


def test_rescaled_weight_saturates_inside_its_codes():
    weight = np.array([[-1.0, 1.0], [2.0, -4.0]], np.float32)
    ours = quantize_weight(weight, Scheme("int8", True, "per_channel"), 0)
    halved = ours.rescaled(weight, ours.scale / 2)
    assert halved.codes.tolist() == [[-127, 127], [127, -127]]
    grown = ours.rescaled(weight, ours.scale * 127)
    assert grown.codes.tolist() == [[-1, 1], [0, -1]]
    assert code_range("int8", True) == ours.code_range
    np.testing.assert_array_equal(grown.scale, ours.scale * 127)


def test_onnxruntime_parameters_of_a_weight_are_ours():
    weight = RANDOM.standard_normal((3, 4)).astype(np.float32)
    zero_point, scale = compute_data_quant_params(weight.ravel(), TensorProto.INT8, True)
    ours = quantize_weight(weight, Scheme("int8", True))
    assert (ours.scale, ours.zero_point) == (scale, zero_point)
