"""Weights alone on integers, against the float model computed with rounded weights."""

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper

from disttune.config.schemes import OpConfig, Scheme
from disttune.quantize.counts import count_quantized
from tests.models import (
    attention,
    depthwise_cnn,
    feeds,
    mlp,
    recurrent,
    shared_weight,
    tiny_cnn,
    with_branches,
)
from tests.quantize.engines import Tried, dynamic, node_types, outputs, static

PER_CHANNEL = OpConfig("weight_only", Scheme("int8", True, "per_channel"))
PER_TENSOR = OpConfig("weight_only", Scheme("int8", True))
# op to its weight and the axis of the channels
WEIGHTS = {
    tiny_cnn: {"conv1": [("w1", 0)], "conv2": [("w2", 0)], "fc": [("w3", 0)]},
    depthwise_cnn: {"depthwise": [("wd", 0)], "pointwise": [("wp", 0)]},
    mlp: {"fc1": [("w1", 1)], "fc2": [("w2", 0)]},
    attention: {"query": [("wq", 1)], "up": [("wu", 1)], "down": [("wd", 1)]},
    recurrent: {"table": [("embedding", 0)], "lstm": [("w", 0), ("r", 0)], "fc": [("wf", 1)]},
}


def rounded(array, axis):
    """To multiples of the greatest magnitude / 127, over the whole or along an axis."""
    others = None if axis is None else tuple(i for i in range(array.ndim) if i != axis)
    scale = np.abs(array).max(axis=others, keepdims=True) / 127
    return (np.round(array / scale) * scale).astype(np.float32)


def with_rounded(model, weights):
    copy = ModelProto.FromString(model.SerializeToString())
    for tensor in copy.graph.initializer:
        if tensor.name in weights:
            array = rounded(numpy_helper.to_array(tensor), weights[tensor.name])
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return copy


@pytest.mark.parametrize("config", [PER_CHANNEL, PER_TENSOR])
@pytest.mark.parametrize("make", WEIGHTS)
def test_the_model_computes_with_rounded_weights_and_float_activations(make, config):
    t = Tried(make(), feeds(make(), N=3))
    model = t.build(dict.fromkeys(WEIGHTS[make], config))
    per_channel = config is PER_CHANNEL
    weights = {name: axis if per_channel else None for w in WEIGHTS[make].values() for name, axis in w}
    expected_outputs = outputs(with_rounded(t.prepared, weights), t.feeds)
    for found, expected in zip(outputs(model, t.feeds, optimize=False), expected_outputs, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert count_quantized(model) == len(WEIGHTS[make])
    assert node_types(model)["QuantizeLinear"] == 0


def test_the_float_weight_is_gone_and_the_model_smaller():
    t = Tried(mlp(), feeds(mlp()))
    names = {tensor.name for tensor in t.build({"fc1": PER_CHANNEL, "fc2": PER_CHANNEL}).graph.initializer}
    assert names.isdisjoint({"w1", "w2"})


def test_it_stands_beside_static_and_dynamic_ops():
    t = Tried(attention(), feeds(attention(), N=2, T=3))
    model = t.build({"query": static(), "up": PER_CHANNEL, "down": dynamic()})
    assert count_quantized(model) == 3
    assert node_types(model)["MatMulInteger"] == 1
    assert all(np.isfinite(o).all() for o in outputs(model, t.feeds))


def test_a_weight_that_a_float_op_reads_too_stays_for_it():
    t = Tried(shared_weight(), feeds(shared_weight()))
    model = t.build({"first": PER_CHANNEL})
    assert count_quantized(model) == 1
    both = t.build({"first": PER_CHANNEL, "second": PER_CHANNEL})
    assert node_types(both)["DequantizeLinear"] == 1


def test_what_a_branch_reads_stays():
    t = Tried(with_branches(), feeds(with_branches()))
    assert count_quantized(t.build({"before": PER_CHANNEL, "after": PER_CHANNEL})) == 2


def test_unsigned_asymmetric_weights_are_rounded_too():
    t = Tried(mlp(), feeds(mlp()))
    model = t.build({"fc1": OpConfig("weight_only", Scheme("uint8", False))})
    for found, expected in zip(outputs(model, t.feeds), outputs(t.prepared, t.feeds), strict=True):
        np.testing.assert_allclose(found, expected, atol=0.01)
