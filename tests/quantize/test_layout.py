"""Layers and their weights; oracles: onnxruntime's output of the op, and QuantizedWeight's own meaning."""

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from disttune.config.errors import TrialError
from disttune.config.schemes import Scheme
from disttune.quantize.algorithms.layer import LayerSolution
from disttune.quantize.algorithms.layout import LayerLayout, layout_of
from disttune.quantize.builder.encode import ONNX_TYPES, encode
from disttune.quantize.weights import QuantizedWeight, quantize_weight
from tests.models import value
from tests.quantize.layers import (
    OneLayer,
    convolutions,
    matrices,
    output_rows,
    plain_rows,
    transposed_convolutions,
)

layers = matrices() | convolutions() | transposed_convolutions()


def layout(layer: OneLayer) -> LayerLayout:
    return layout_of(layer.node, layer.weight.shape)


@settings(max_examples=150, deadline=None)
@given(layer=layers)
def test_rows_times_the_layers_weight_are_the_ops_output(layer: OneLayer) -> None:
    x = layer.inputs(2)
    place = layout(layer)
    rows = plain_rows(layer, np.maximum(x, 0))
    expected = output_rows(layer, layer.output(x), place.n_parts, place.n_outputs)
    np.testing.assert_array_equal(rows @ place.weight(layer.weight), expected)


@settings(max_examples=50, deadline=None)
@given(layer=layers)
def test_a_weight_comes_back_from_its_layer(layer: OneLayer) -> None:
    place = layout(layer)
    np.testing.assert_array_equal(place.from_layer(place.to_layer(layer.weight)), layer.weight)


def solution(place: LayerLayout, scheme: Scheme, seed: int) -> LayerSolution:
    """Random codes with the parameters that a scheme gives a layer."""
    random = np.random.default_rng(seed)
    n_groups = -(-place.n_inputs // (scheme.group_size or place.n_inputs))
    shape = (1, 1, 1) if scheme.granularity == "per_tensor" else (place.n_parts, n_groups, place.n_outputs)
    codes = random.integers(-7, 8, (place.n_parts, place.n_inputs, place.n_outputs)).astype(np.int32)
    zero_point = np.zeros(shape, np.int32) if scheme.symmetric else random.integers(-7, 8, shape)
    scale = random.uniform(0.5, 2, shape).astype(np.float32)
    return LayerSolution(codes, scale, zero_point.astype(np.int32))


def meaning(place: LayerLayout, found: LayerSolution, group_size: int) -> np.ndarray:
    """What a solution stands for, shape (n_parts, K, N), value by value."""
    shape = (place.n_parts, place.n_inputs, place.n_outputs)
    scale, zero_point = (
        np.broadcast_to(np.repeat(v, group_size, axis=1)[:, : place.n_inputs], shape)
        for v in (found.scale, found.zero_point)
    )
    return ((found.codes - zero_point).astype(np.float32) * scale).astype(np.float32)


def dequantized_by_onnxruntime(weight: QuantizedWeight) -> np.ndarray:
    attributes = {} if weight.axis is None else {"axis": weight.axis}
    if weight.block_size is not None:
        attributes["block_size"] = weight.block_size
    node = helper.make_node("DequantizeLinear", ["c", "s", "z"], ["y"], **attributes)
    tensors = [encode(weight.codes, weight.dtype), encode(weight.scale, "float32")]
    tensors.append(encode(weight.zero_point, weight.dtype))
    for tensor, name in zip(tensors, "csz", strict=True):
        tensor.name = name
    graph = helper.make_graph([node], "g", [], [value("y", weight.codes.shape)], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return np.asarray(session.run(None, {})[0])


@settings(max_examples=100, deadline=None)
@given(
    layer=matrices() | convolutions(),
    scheme=st.builds(
        Scheme,
        st.sampled_from(["int8", "int16", "int4"]),
        st.booleans(),
        st.sampled_from(["per_tensor", "per_channel"]),
    ),
    seed=st.integers(0, 99),
)
def test_a_solution_means_the_same_in_onnx(layer: OneLayer, scheme: Scheme, seed: int) -> None:
    place = layout(layer)
    found = solution(place, scheme, seed)
    weight = place.quantized(found, scheme)
    expected = place.from_layer(meaning(place, found, place.n_inputs))
    np.testing.assert_array_equal(weight.dequantized(), expected)
    np.testing.assert_array_equal(dequantized_by_onnxruntime(weight), expected)


@settings(max_examples=60, deadline=None)
@given(layer=matrices(), size=st.integers(1, 5), symmetric=st.booleans(), seed=st.integers(0, 99))
def test_groups_of_a_matrix_mean_the_same_in_onnx(
    layer: OneLayer, size: int, symmetric: bool, seed: int
) -> None:
    scheme = Scheme("int4", symmetric, "per_group", size)
    place = layout(layer)
    found = solution(place, scheme, seed)
    weight = place.quantized(found, scheme)
    expected = place.from_layer(meaning(place, found, size))
    np.testing.assert_array_equal(weight.dequantized(), expected)
    if size <= place.n_inputs:
        np.testing.assert_array_equal(dequantized_by_onnxruntime(weight), expected)


@settings(max_examples=60, deadline=None)
@given(layer=layers, symmetric=st.booleans())
def test_rounded_codes_survive_the_way_through_the_layer(layer: OneLayer, symmetric: bool) -> None:
    scheme = Scheme("int8", symmetric)
    place = layout(layer)
    plain = quantize_weight(layer.weight, scheme)
    codes = place.to_layer(plain.codes).astype(np.int32)
    through = LayerSolution(
        codes, plain.scale.reshape(1, 1, 1), plain.zero_point.reshape(1, 1, 1).astype(np.int32)
    )
    weight = place.quantized(through, scheme)
    np.testing.assert_array_equal(weight.codes, plain.codes)
    np.testing.assert_array_equal(weight.dequantized(), plain.dequantized())
    assert ONNX_TYPES[weight.dtype] == ONNX_TYPES[plain.dtype]


def test_scales_that_onnx_shares_between_columns_have_to_agree() -> None:
    node = helper.make_node("ConvTranspose", ["x", "w"], ["y"], "up", group=2)
    place = layout_of(node, (4, 3, 2, 2))
    scheme = Scheme("int8", True, "per_channel")
    alike = np.tile(np.repeat(np.array([1.0, 2.0, 3.0]), 4), (2, 1, 1))
    np.testing.assert_array_equal(place.parameters(alike, scheme), [1, 2, 3])
    with pytest.raises(TrialError, match=r"op up: .*\(4, 3, 2, 2\) in 2 parts has no place.*per_tensor"):
        place.parameters(np.arange(24.0).reshape(2, 1, 12), scheme)


def test_groups_of_a_kernel_have_no_place_in_onnx() -> None:
    place = layout_of(helper.make_node("Conv", ["x", "w"], ["y"], "conv"), (1, 4, 3, 3))
    scales = np.arange(18.0).reshape(1, 18, 1)
    with pytest.raises(TrialError, match=r"op conv: .*has no place"):
        place.parameters(scales, Scheme("int4", True, "per_group", 2))


def test_groups_of_a_kernel_of_one_are_those_of_onnx() -> None:
    place = layout_of(helper.make_node("Conv", ["x", "w"], ["y"], "conv"), (1, 4, 1, 1))
    found = place.parameters(np.array([[[1.0], [2.0]]]), Scheme("int4", True, "per_group", 2))
    np.testing.assert_array_equal(found, np.array([1.0, 2.0]).reshape(1, 2, 1, 1))


@pytest.mark.parametrize(
    ("op_type", "shape", "message"),
    [
        ("MatMul", (2, 3, 4), r"op it: its weight has shape \(2, 3, 4\)"),
        ("MatMul", (3,), r"op it: its weight has shape \(3,\)"),
        ("LSTM", (1, 8, 4), "op it: a LSTM is no linear layer"),
        ("Gemm", (0, 4), "op it: .*empty"),
    ],
)
def test_an_op_without_a_layer_is_named(op_type: str, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(TrialError, match=message):
        layout_of(helper.make_node(op_type, ["x", "w"], ["y"], "it"), shape)


def test_zero_points_between_codes_are_kept_as_they_are() -> None:
    place = layout_of(helper.make_node("MatMul", ["x", "w"], ["y"], "it"), (2, 1))
    one = np.ones((1, 1, 1), np.float32)
    solution = LayerSolution(np.ones((1, 2, 1), np.int32), one, one / 4)
    weight = place.quantized(solution, Scheme("int8", False))
    assert weight.zero_point == np.float32(0.25)
    assert weight.dequantized() == pytest.approx(0.75)


def test_float8_is_refused() -> None:
    place = layout_of(helper.make_node("MatMul", ["x", "w"], ["y"], "it"), (2, 1))
    one = np.ones((1, 1, 1), np.float32)
    with pytest.raises(TrialError, match=r"op it: .*no integer codes"):
        place.quantized(LayerSolution(np.zeros((1, 2, 1), np.int32), one, one), Scheme("float8e5m2", True))
