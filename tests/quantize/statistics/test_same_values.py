import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper

from disttune.quantize.statistics.collect import collect
from disttune.quantize.statistics.layout import Samples
from disttune.quantize.statistics.same_values import Source, value_sources
from tests.models import Graph, feeds, value
from tests.quantize.statistics.observed import observed, packed


def moved(op_type: str, shape: list | None, *inputs: str, **attributes: object) -> ModelProto:
    """y = op(h), h = x + x of shape (N, 2, 3); y is declared with a shape."""
    g = Graph()
    g.constant("to_rows", np.array([0, 6]))
    g.constant("to_all", np.array([-1, 3]))
    g.constant("first", np.array([0]))
    g.constant("last", np.array([3]))
    g.node("Add", "x", "x", output="h")
    g.node(op_type, "h", *inputs, output="y", **attributes)
    model = g.model([value("x", ["N", 2, 3])], [value("y", shape)])
    model.graph.value_info.append(helper.make_tensor_value_info("h", TensorProto.FLOAT, ["N", 2, 3]))
    return model


SAME = {
    "Identity": moved("Identity", ["N", 2, 3]),
    "Reshape": moved("Reshape", ["N", 6], "to_rows"),
    "Flatten": moved("Flatten", ["N", 6]),
    "Unsqueeze": moved("Unsqueeze", ["N", 2, 3, 1], "last"),
    "Transpose": moved("Transpose", ["N", 3, 2], perm=[0, 2, 1]),
    "Transpose to an unknown shape": moved("Transpose", None, perm=[0, 2, 1]),
}
OTHERS = {
    "rows become more": moved("Reshape", ["M", 3], "to_all"),
    "a dimension comes first": moved("Unsqueeze", [1, "N", 2, 3], "first"),
    "rows change places": moved("Transpose", [2, "N", 3], perm=[1, 0, 2]),
    "all dimensions turn": moved("Transpose", [3, 2, "N"]),
    "nothing is known of the shape": moved("Reshape", None, "to_rows"),
    "other values": moved("Abs", ["N", 2, 3]),
}


@pytest.mark.parametrize("model", SAME.values(), ids=SAME)
def test_an_output_that_keeps_the_samples_has_the_statistics_of_the_input(model):
    inputs = feeds(model, 3, N=4)
    statistics = collect(model, inputs, ["y", "h"])
    assert value_sources(model, ["y", "h"]) == {"y": Source("h"), "h": Source("h")}
    assert packed(statistics["y"]) == packed(statistics["h"])
    h = np.concatenate([2 * feed["x"] for feed in inputs])
    assert np.array_equal(statistics["y"].sample_minima, h.min(axis=(1, 2)))
    assert np.array_equal(statistics["y"].sample_maxima, h.max(axis=(1, 2)))


@pytest.mark.parametrize("model", OTHERS.values(), ids=OTHERS)
def test_other_outputs_are_looked_at_themselves(model):
    assert value_sources(model, ["y"]) == {"y": Source("y")}


def test_the_source_is_the_first_of_a_chain():
    g = Graph()
    g.node("Neg", "x", output="a")
    g.node("Identity", "a", output="b")
    g.node("Flatten", "b", output="y")
    model = g.model([value("x", ["N", 2])], [value("y", ["N", 2])])
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 2]) for name in "ab"]
    model.graph.value_info.extend(infos)
    assert value_sources(model, ["b", "y"]) == {"b": Source("a"), "y": Source("a")}


def test_a_constant_is_no_source():
    g = Graph()
    g.node("Flatten", g.weight("w", 2, 2), output="flat")
    g.node("Add", "x", "flat", output="y")
    model = g.model([value("x", [2, 2])], [value("y", [2, 2])])
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 2]) for name in ("w", "flat")]
    model.graph.value_info.extend(infos)
    assert value_sources(model, ["flat"]) == {"flat": Source("flat")}
    assert collect(model, feeds(model, 1), ["flat"])["flat"].n == 4


@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_an_output_of_relu_has_its_statistics_from_those_of_the_input(offset):
    model = rectified(offset)
    inputs = feeds(model, 3, N=4)
    tensors = ["h", "r", "y"]
    assert value_sources(model, tensors) == {"h": Source("h"), "r": Source("h", True), "y": Source("h", True)}
    statistics = collect(model, inputs, tensors)
    values = [Samples(np.maximum(2 * feed["x"] + np.float32(offset), 0), 4) for feed in inputs]
    assert packed(statistics["r"]) == packed(statistics["y"]) == packed(observed(values))


def test_an_output_of_relu_is_looked_at_itself_where_the_input_is_of_no_interest():
    assert value_sources(rectified(0.0), ["y"]) == {"y": Source("r")}


def rectified(offset: float) -> ModelProto:
    """y = r = relu(h), h = x + x + offset."""
    g = Graph()
    g.node("Add", g.node("Add", "x", "x"), g.constant("c", np.float32(offset)), output="h")
    g.node("Relu", "h", output="r")
    g.node("Flatten", "r", output="y")
    model = g.model([value("x", ["N", 3])], [value("y", ["N", 3])])
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3]) for name in "hr"]
    model.graph.value_info.extend(infos)
    return model
