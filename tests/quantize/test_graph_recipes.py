"""Recipes of the float graph: what is prepared computes the same, with other ops."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

from disttune.quantize.activation_fusions import take_apart
from disttune.quantize.digest import model_digest, serialize
from disttune.quantize.graph import prepare
from disttune.quantize.summary import summarize
from tests.models import Graph, attention, depthwise_cnn, feeds, mlp, tiny_cnn, value, with_branches
from tests.quantize.engines import relative_error, static
from tests.quantize.pairs import Pair

MODELS = [tiny_cnn, depthwise_cnn, mlp, attention, with_branches]
RECIPES = [
    {"graph_optimization_level": "DISABLE_ALL"},
    {"graph_optimization_level": "ENABLE_EXTENDED"},
    {"gemm_to_matmul": True},
    {"graph_optimization_level": "ENABLE_EXTENDED", "gemm_to_matmul": True},
]


def run(model, inputs):
    session = onnxruntime.InferenceSession(serialize(model), providers=["CPUExecutionProvider"])
    return [session.run(None, feed)[0] for feed in inputs]


@pytest.mark.parametrize("recipes", RECIPES, ids=lambda r: "-".join(map(str, r.values())))
@pytest.mark.parametrize("make", MODELS)
def test_the_prepared_model_computes_what_the_users_does(make, recipes):
    model = make()
    warned = []
    prepared = prepare(model, warned.append, recipes=recipes)

    for found, expected in zip(run(prepared, feeds(model)), run(model, feeds(model)), strict=True):
        assert np.allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert model_digest(prepared) == model_digest(prepare(model, recipes=recipes))
    assert [w for w in warned if "optimization" in w] == []


def types(model):
    return [node.op_type for node in model.graph.node]


def test_the_default_level_is_basic():
    model = depthwise_cnn()
    assert model_digest(prepare(model)) == model_digest(
        prepare(model, recipes={"graph_optimization_level": "ENABLE_BASIC", "gemm_to_matmul": False})
    )


def test_without_optimization_the_graph_stays_as_it_is():
    g = Graph(1)
    h = g.node("Relu", "x", name="relu")
    for _ in range(2):
        h = g.node("Identity", h)
    g.node("MatMul", h, g.weight("w", 4, 4), name="fc", output="y")
    model = g.model([value("x", ["N", 4])], [value("y", ["N", 4])])

    assert types(prepare(model, recipes=RECIPES[0])) == ["Relu", "Identity", "Identity", "MatMul"]
    assert types(prepare(model)) == ["Relu", "MatMul"]


def test_extended_level_fuses_and_leaves_conv_and_activation_apart():
    g = Graph(1)
    h = g.node("Conv", "x", g.weight("w1", 4, 3, 3, 3), g.weight("b1", 4), name="conv1")
    h = g.node("LeakyRelu", h, name="leaky", alpha=0.2)
    h = g.node("Conv", h, g.weight("w2", 4, 4, 3, 3), name="conv2", pads=[1, 1, 1, 1])
    h = g.node("Relu", h, name="relu")
    h = g.node("Flatten", h, name="flat")
    h = g.node("Gemm", h, g.weight("w3", 144, 5), g.weight("b3", 5), name="fc")
    g.node("Relu", h, name="last", output="y")
    model = g.model([value("x", ["N", 3, 8, 8])], [value("y", ["N", 5])])
    prepared = prepare(model, recipes=RECIPES[1])

    assert types(prepared) == ["Conv", "LeakyRelu", "Conv", "Relu", "Flatten", "Gemm", "Relu"]
    summary = summarize(prepared, model)
    assert [op.name for op in summary.ops if op.n_macs] == ["conv1", "conv2", "fc"]
    assert [op.n_macs for op in summary.ops] == [op.n_macs for op in summarize(prepare(model), model).ops]
    assert np.allclose(run(prepared, feeds(model))[0], run(model, feeds(model))[0], atol=1e-5)


@pytest.mark.parametrize(
    ("activation", "parameters"),
    [("Relu", []), ("Tanh", []), ("Sigmoid", []), ("LeakyRelu", [0.3]), ("Clip", [-0.5, 1.5]),
     ("HardSigmoid", [0.3, 0.4]), ("", [])],
)  # fmt: skip
@pytest.mark.parametrize("has_sum", [False, True])
def test_a_fused_conv_taken_apart_computes_the_same(activation, parameters, has_sum):
    g = Graph(1)
    inputs = ["x", g.weight("w", 3, 3, 3, 3), g.weight("b", 3)] + (["z"] if has_sum else [])
    attributes = {"pads": [1, 1, 1, 1], "domain": "com.microsoft"}
    if activation:
        attributes |= {"activation": activation}
    if parameters:
        attributes |= {"activation_params": parameters}
    node = helper.make_node("FusedConv", inputs, ["y"], "fused", **attributes)
    names = ["x", "z"] if has_sum else ["x"]
    graph = helper.make_graph(
        [node], "g", [value(n, ["N", 3, 5, 5]) for n in names], [value("y", ["N", 3, 5, 5])],
        list(g.model([value("x", ["N"])], [value("x", ["N"])]).graph.initializer),
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    apart = take_apart(model)

    assert types(apart)[0] == "Conv"
    assert "FusedConv" not in types(apart)
    onnx.checker.check_model(apart, full_check=True)
    inputs = feeds(model, 2, N=2)
    assert np.allclose(run(apart, inputs)[0], run(model, inputs)[0], atol=1e-5)


def gemm(weight="w", bias="b", **attributes):
    """One Gemm x (2, 6) to y (2, 4), and a second one that reads the same weight."""
    g = Graph(1)
    shape = (4, 6) if attributes.get("transB") else (6, 4)
    names = ["x", g.weight("w", *shape)] + ([g.weight("b", 4)] if bias else [])
    first = g.node("Gemm", *names, name="first", **attributes)
    second = g.node("Gemm", "x", "w", name="second", transB=attributes.get("transB", 0), alpha=7.0)
    g.node("Add", first, second, name="sum", output="y")
    return g.model([value("x", [2, 6])], [value("y", [2, 4])])


@pytest.mark.parametrize("attributes", [{}, {"transB": 1}, {"alpha": 0.5}, {"beta": 2.0},
                                        {"alpha": 3.0, "beta": 0.25, "transB": 1}])  # fmt: skip
@pytest.mark.parametrize("bias", ["b", ""])
def test_a_gemm_becomes_a_matmul_of_its_name(bias, attributes):
    model = gemm(bias=bias, **attributes)
    prepared = prepare(model, recipes={"gemm_to_matmul": True})

    assert "Gemm" not in types(prepared)
    named = {node.name: node.op_type for node in prepared.graph.node}
    assert (named["first"], named["second"], named["sum"]) == ("MatMul", "MatMul", "Add")
    assert np.allclose(run(prepared, feeds(model))[0], run(model, feeds(model))[0], atol=1e-5)


def test_a_gemm_that_transposes_its_data_stays():
    g = Graph(1)
    g.node("Gemm", "x", g.weight("w", 6, 4), name="fc", output="y", transA=1)
    model = g.model([value("x", [6, 2])], [value("y", [2, 4])])

    assert types(prepare(model, recipes={"gemm_to_matmul": True})) == ["Gemm"]


@pytest.mark.parametrize("recipes", RECIPES[1:], ids=lambda r: "-".join(map(str, r.values())))
@pytest.mark.parametrize("make", [tiny_cnn, mlp, attention])
def test_a_graph_of_other_ops_is_quantized_alike_by_both_engines(make, recipes):
    t = Pair(make(), N=2, T=4, recipes=recipes)
    reference, fast = t.both(t.everywhere(static(), "Conv", "MatMul", "Gemm"))

    assert model_digest(fast) == model_digest(reference)
    assert relative_error(fast, t) < 0.1


def test_outputs_of_op_types_that_stay_in_float_have_no_codes():
    g = Graph(1)
    h = g.node("MatMul", "x", g.weight("w1", 4, 4), name="one")
    h = g.node("Sigmoid", h, name="between")
    g.node("MatMul", h, g.weight("w2", 4, 4), name="two", output="y")
    t = Pair(g.model([value("x", ["N", 4])], [value("y", ["N", 4])]), N=2)
    configs = {"one": static(), "two": static()}

    usual = t.build_fast(configs)
    excluded = t.build_fast(configs, optypes_to_exclude_output_quant="MatMul")

    assert types(usual).count("QuantizeLinear") == 4
    assert types(excluded).count("QuantizeLinear") == 2
    assert relative_error(excluded, t) < 0.1
    assert not np.array_equal(run(excluded, t.feeds)[0], run(usual, t.feeds)[0])


def test_a_relu_whose_output_stays_in_float_still_clips():
    t = Pair(tiny_cnn(), N=2)
    configs = t.everywhere(static(), "Conv", "Relu", "Gemm")
    for model in t.both(configs, optypes_to_exclude_output_quant="Relu"):
        assert types(model).count("Relu") == 2
        assert relative_error(model, t) < 0.1
