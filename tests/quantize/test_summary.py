import json

import numpy as np
import pytest
from onnx import TensorProto, helper

from disttune.config.errors import ModelError
from disttune.quantize.graph import prepare
from disttune.quantize.sources import node_names
from disttune.quantize.summary import InputSpec, input_specs, summarize
from disttune.space.summary import ModelSummary, OpSummary
from tests.models import (
    Graph,
    attention,
    depthwise_cnn,
    mlp,
    recurrent,
    shared_weight,
    tiny_cnn,
    unnamed,
    value,
    with_branches,
)

MODELS = [tiny_cnn, depthwise_cnn, mlp, attention, recurrent, shared_weight, unnamed, with_branches]


def summary_of(model) -> ModelSummary:
    return summarize(prepare(model), model)


def op(model, name: str) -> OpSummary:
    return next(op for op in summary_of(model).ops if op.name == name)


def fused(*names: str) -> dict[str, tuple[str, ...]]:
    """Names and sources of a model MatMul + Add over (2, 5, 3), with these names."""
    g = Graph()
    h = g.node("MatMul", "x", g.weight("w", 3, 4), name=names[0], output="product")
    g.node("Add", h, g.weight("b", 4), name=names[1], output="y")
    ops = summary_of(g.model([value("x", [2, 5, 3])], [value("y", [2, 5, 4])])).ops
    return {op.name: op.sources for op in ops}


@pytest.mark.parametrize("make", MODELS)
def test_every_node_of_the_prepared_model_has_its_ops_name_once(make):
    model = make()
    prepared = prepare(model)
    ops = summarize(prepared, model).ops
    assert [o.name for o in ops] == [n.name for n in prepared.graph.node]
    assert [o.op_type for o in ops] == [n.op_type for n in prepared.graph.node]
    assert len({o.name for o in ops}) == len(ops)
    assert all(o.name in o.sources for o in ops)


@pytest.mark.parametrize("make", MODELS)
def test_every_named_node_of_the_users_model_is_answered_for_once(make):
    model = make()
    sources = [s for o in summary_of(model).ops for s in o.sources]
    named = [n.name for n in model.graph.node if n.name]
    assert sorted(s for s in sources if s in named) == sorted(named)


@pytest.mark.parametrize("make", MODELS)
def test_a_summary_survives_json(make):
    summary = summary_of(make())
    assert ModelSummary.from_dict(json.loads(json.dumps(summary.to_dict()))) == summary


def test_a_folded_batch_norm_belongs_to_its_convolution():
    assert op(depthwise_cnn(), "stem").sources == ("stem", "norm")


def test_an_unnamed_node_is_called_by_type_and_first_output():
    ops = summary_of(unnamed()).ops
    assert [(o.name, o.op_type, o.sources) for o in ops] == [
        ("MatMul:product", "Gemm", ("MatMul:product", "Add:total")),
        ("Tanh:y", "Tanh", ("Tanh:y", "Identity:same")),
    ]


def test_a_gemm_between_reshapes_answers_to_what_it_was_made_of():
    assert fused("dense", "dense_bias") == {
        "Reshape:gemm_input_reshape_arg": ("Reshape:gemm_input_reshape_arg",),
        "dense": ("dense", "dense_bias"),
        "Reshape:y": ("Reshape:y",),
    }


def test_names_that_come_twice_are_told_apart():
    g = Graph()
    g.node("Tanh", g.node("Tanh", "x", name="same", output="h"), name="same", output="y")
    assert node_names(g.model([value("x", [1])], [value("y", [1])]).graph) == ["same", "Tanh:y"]


def test_a_made_up_name_is_never_that_of_another_node():
    names = fused("Add:y", "")
    assert names["Add:y"] == ("Add:y", "Add:y#2")


@pytest.mark.parametrize(
    ("make", "name", "shape", "n_channels"),
    [
        (tiny_cnn, "conv1", (4, 3, 3, 3), 4),
        (tiny_cnn, "fc", (5, 6), 5),  # transB
        (mlp, "fc1", (6, 8), 8),
        (depthwise_cnn, "depthwise", (4, 1, 3, 3), 4),
        (attention, "up", (8, 16), 16),
        (recurrent, "table", (7, 3), 7),
        (recurrent, "lstm", (1, 16, 3), 1),
    ],
)
def test_weights_have_channels_along_the_axis_of_their_operator(make, name, shape, n_channels):
    weight = op(make(), name).weight
    assert weight is not None
    assert (weight.shape, weight.n_channels) == (shape, n_channels)


def test_a_transposed_convolution_has_its_channels_in_the_second_axis():
    g = Graph()
    g.node("ConvTranspose", "x", g.weight("w", 3, 5, 2, 2), name="up", output="y", strides=[2, 2])
    model = g.model([value("x", ["N", 3, 4, 4])], [value("y", ["N", 5, 8, 8])])
    assert op(model, "up").weight.n_channels == 5  # type: ignore[union-attr]
    assert op(model, "up").n_macs == 4 * 4 * 3 * 5 * 2 * 2


def test_both_weights_of_an_lstm_count_for_its_size():
    assert op(recurrent(), "lstm").weight.size_bytes == 4 * (16 * 3 + 16 * 4)  # type: ignore[union-attr]


def test_a_product_of_two_activations_has_no_weight():
    assert op(attention(), "scores").weight is None


@pytest.mark.parametrize(
    ("make", "name", "n_macs"),
    [
        (tiny_cnn, "conv1", 8 * 8 * 4 * 3 * 3 * 3),
        (tiny_cnn, "conv2", 2 * 2 * 6 * 4 * 3 * 3),
        (tiny_cnn, "fc", 6 * 5),
        (tiny_cnn, "relu1", 0),
        (depthwise_cnn, "depthwise", 6 * 6 * 4 * 3 * 3),
        (depthwise_cnn, "pointwise", 6 * 6 * 4 * 4),
        (mlp, "fc2", 8 * 3),
        (attention, "up", 8 * 16),  # T is unknown: 1
        (attention, "scores", 8),
    ],
)
def test_multiply_adds_of_one_sample_are_counted_as_by_hand(make, name, n_macs):
    assert op(make(), name).n_macs == n_macs


def test_the_model_is_described_as_a_whole():
    summary = summary_of(recurrent())
    assert (summary.inputs, summary.outputs, summary.opset) == (("tokens",), ("y",), 17)
    assert summary.size_bytes == recurrent().ByteSize()
    assert summary.n_parameters >= 7 * 3 + 16 * 3 + 16 * 4 + 4 * 2


def test_shape_arithmetic_has_no_float_data():
    g = Graph()
    shape = g.node("Shape", "x", name="shape")
    first = g.node("Gather", shape, g.constant("zero", np.int64([0])), name="first")
    ones = g.node("Concat", first, g.constant("rest", np.int64([-1])), name="both", axis=0)
    g.node("Reshape", "x", ones, name="flatten", output="y")
    ops = {
        o.name: o for o in summary_of(g.model([value("x", ["N", "A", "B"])], [value("y", ["N", None])])).ops
    }
    assert ops["flatten"].has_float_data
    assert not any(o.has_float_data for name, o in ops.items() if name in ("first", "both"))


def test_inputs_are_described_as_numpy_needs_them():
    model = with_branches()
    model.graph.input.append(value("ids", ["N", None, 3], TensorProto.INT64))
    assert input_specs(model) == (
        InputSpec("x", "float32", ("N", 4)),
        InputSpec("ids", "int64", ("N", None, 3)),
    )


def test_an_input_that_is_no_tensor_is_refused():
    model = mlp()
    model.graph.input.append(helper.make_tensor_sequence_value_info("many", TensorProto.FLOAT, None))
    with pytest.raises(ModelError, match='input "many" is a sequence'):
        input_specs(model)


@pytest.mark.parametrize("mask", [-np.inf, np.nan, -3.4e38])
def test_an_op_with_a_constant_mask_is_never_quantized(mask: float):
    g = Graph()
    masked = g.node("Add", "x", g.constant("mask", np.float32([0, mask, 0, 0])), name="masked")
    g.node("Add", masked, g.constant("bias", np.float32([0, 1, 1e29, 0])), name="biased", output="y")
    model = g.model([value("x", ["N", 4])], [value("y", ["N", 4])])
    assert {op.name: op.has_float_data for op in summarize(model, model).ops} == {
        "masked": False,
        "biased": True,
    }
