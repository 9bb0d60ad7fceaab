"""Oracle: the engine "reference", that is onnxruntime's `quantize_dynamic` on the ops of a candidate."""

import itertools

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper

from disttune.config.errors import TrialError
from disttune.config.schemes import FLOAT32, OpConfig, Scheme
from disttune.quantize.digest import model_digest
from disttune.space.candidate import Candidate
from tests.models import (
    Graph,
    attention,
    depthwise_cnn,
    feeds,
    mlp,
    recurrent,
    shared_weight,
    tiny_cnn,
    value,
)
from tests.quantize.engines import arrays, dynamic, node_types, relative_error, static
from tests.quantize.pairs import Pair, without_unread_pairs
from tests.quantize.random_models import random_configs, random_model

UINT8 = Scheme("uint8", symmetric=False)
KINDS = list(itertools.product(["int8", "uint8"], [True, False], ["per_tensor", "per_channel"]))

REFUSED = {
    "Conv": {kind for kind in KINDS if kind[2] == "per_channel"},
    "LSTM": {kind for kind in KINDS if kind[0] == "uint8"} | {("int8", False, "per_channel")},
    "Gather": set(KINDS) - {("uint8", False, "per_tensor")},
}


def assert_same(models: tuple[ModelProto, ModelProto]) -> None:
    reference, fast = models
    assert node_types(fast) == node_types(reference)
    assert sorted(arrays(fast).values(), key=str) == sorted(arrays(reference).values(), key=str)
    assert model_digest(fast) == model_digest(reference)
    onnx.checker.check_model(fast)


def weighted(t: Pair, config: OpConfig, *types: str) -> dict[str, OpConfig]:
    return {op.name: config for op in t.summary.ops if op.weight and op.op_type in types}


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("make", [mlp, attention, shared_weight, tiny_cnn, recurrent])
def test_matrix_products_are_what_the_reference_makes(make, kind):
    t = Pair(make(), N=1)
    assert_same(t.both(weighted(t, OpConfig("dynamic", Scheme(*kind), UINT8), "MatMul", "Gemm")))


@pytest.mark.parametrize(
    ("make", "op_type", "config"),
    [
        (depthwise_cnn, "Conv", dynamic("uint8")),
        (tiny_cnn, "Conv", dynamic("int8")),
        (recurrent, "LSTM", dynamic("int8")),
        (recurrent, "LSTM", dynamic("int8", per_channel=True)),
        (recurrent, "LSTM", OpConfig("dynamic", Scheme("int8", False), UINT8)),
        (recurrent, "Gather", dynamic("uint8")),
    ],
)
def test_other_types_are_what_the_reference_makes(make, op_type, config):
    t = Pair(make(), N=1)
    assert_same(t.both(weighted(t, config, op_type)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("op_type", "make"),
    [("MatMul", attention), ("Gemm", mlp), ("Conv", tiny_cnn), ("LSTM", recurrent), ("Gather", recurrent)],
)
def test_what_the_reference_refuses_is_refused(op_type, make, kind):
    t = Pair(make(), N=1)
    op, *_ = weighted(t, dynamic(), op_type)
    config = {op: OpConfig("dynamic", Scheme(*kind), UINT8)}
    if kind not in REFUSED.get(op_type, ()):
        assert_same(t.both(config))
        return
    messages = []
    for build in (t.build, t.build_fast):
        with pytest.raises(TrialError) as caught:
            build(config)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


@pytest.mark.parametrize(
    ("op", "config", "message"),
    [
        ("relu", dynamic(), "op relu: onnxruntime quantizes no Relu dynamically; it does Attention, Conv,"),
        ("scores", dynamic(), "op scores: a MatMul without a constant weight cannot be quantized dynam"),
        ("up", OpConfig("dynamic", None, UINT8), "op up: a MatMul without a constant weight"),
        (
            "up",
            OpConfig("dynamic", Scheme("int8", True), Scheme("int8", True)),
            "op up: activations of a dynamic op are uint8 asymmetric per tensor, not int8 symmetric",
        ),
    ],
)
def test_what_has_no_dynamic_form_is_named(op, config, message):
    with pytest.raises(TrialError) as caught:
        Pair(attention(), N=1).build_fast({op: config})
    assert str(caught.value).startswith(message)


def test_a_gemm_with_a_factor_has_no_dynamic_form():
    g = Graph()
    g.node("Gemm", "x", g.weight("w", 4, 4), g.weight("b", 4), name="scaled", output="y", alpha=0.5)
    t = Pair(g.model([value("x", ["N", 4])], [value("y", ["N", 4])]))
    with pytest.raises(TrialError, match="op scaled: a Gemm with transA, alpha or beta has no dynamic form"):
        t.build_fast({"scaled": dynamic()})


STATIC = [static(), static(per_channel=False), static("uint8", "uint8", per_channel=False)]
DYNAMIC = [dynamic(), dynamic("uint8"), dynamic("int8", True), dynamic("uint8", True)]
RECIPES = ["", "add_qdq_pair_to_weight", "dedicated_qdq_pair"]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), recipe=st.sampled_from(RECIPES))
def test_static_and_dynamic_ops_stand_side_by_side_as_in_the_reference(seed, recipe):
    t = Pair(random_model(seed, n_steps=14), N=2)
    configs = random_configs(t.summary, seed, STATIC[: seed % 3], DYNAMIC)
    recipes = {recipe: True} if recipe else {}
    try:
        reference = t.build(configs, **recipes)
    except TrialError:
        with pytest.raises(TrialError):
            t.build_fast(configs, **recipes)
        return
    fast = t.build_fast(configs, **recipes)
    assert model_digest(without_unread_pairs(fast)) == model_digest(without_unread_pairs(reference))


def test_ops_with_different_weights_are_quantized_each_in_its_way():
    t = Pair(attention(), N=1)
    assert_same(
        t.both({"query": dynamic("int8"), "key": dynamic("uint8", True), "up": dynamic("int8", True)})
    )


def test_gemms_that_share_a_transposed_weight_read_one_copy():
    g = Graph()
    h = g.node("Gemm", "x", g.weight("w", 4, 4), name="first", transB=1)
    g.node("Gemm", h, "w", g.weight("b", 4), name="second", output="y", transB=1)
    t = Pair(g.model([value("x", ["N", 4])], [value("y", ["N", 4])]))
    assert_same(t.both({"first": dynamic(), "second": dynamic()}))
    assert_same(t.both({"first": dynamic(), "second": dynamic("uint8")}))
    assert_same(t.both({"first": dynamic(), "second": static()}))
    assert_same(t.both({"second": dynamic()}))


def test_ops_outside_the_space_go_with_the_first_reader_of_their_weight():
    t = Pair(shared_weight())
    candidate = Candidate.of({"first": dynamic(per_channel=True)})
    assert_same((t.engine.build(candidate), t.fast.build(candidate)))


def test_ops_read_the_codes_of_a_table_that_is_quantized_in_the_same_way():
    g = Graph()
    rows = g.node("Gather", g.weight("table", 7, 4), "ids", name="rows")
    g.node("MatMul", rows, g.weight("w", 4, 4), name="same", output="y")
    g.node("MatMul", rows, g.weight("v", 4, 4), name="other", output="z")
    g.node("Tanh", rows, name="tanh", output="t")
    model = g.model(
        [value("ids", ["N"], TensorProto.INT64)],
        [value("y", ["N", 4]), value("z", ["N", 4]), value("t", ["N", 4]), value(rows, ["N", 4])],
    )
    t = Pair(model)
    table = OpConfig("dynamic", Scheme("uint8", False), UINT8)
    assert_same(t.both({"rows": table, "same": table}))
    assert_same(t.both({"rows": table, "same": static()}))
    # Here the reference fails: it gives the table's codes and those of the data one name.
    model = t.build_fast({"rows": table, "same": table, "other": dynamic()})
    assert node_types(model)["DynamicQuantizeLinear"] == 1
    assert relative_error(model, t) < 0.05
    assert_same(t.both({"rows": static("uint8", per_channel=False), "same": table, "other": dynamic()}))


def test_attention_becomes_qattention():
    g = Graph()
    inputs = ["x", g.weight("w", 8, 24), g.weight("b", 24)]
    g.nodes.append(
        helper.make_node("Attention", inputs, ["y"], "attention", domain="com.microsoft", num_heads=2)
    )
    model = g.model([value("x", ["N", "T", 8])], [value("y", ["N", "T", 8])])
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    t = Pair(model, T=4)
    for config in (dynamic(), dynamic("uint8", True), dynamic("int8", True)):
        assert_same(t.both({"attention": config}))
        assert relative_error(t.build_fast({"attention": config}), t) < 0.05


def test_an_attention_without_a_kernel_stays_in_float():
    g = Graph()
    inputs = ["x", g.weight("w", 8, 24), g.weight("b", 24)]
    sizes = {"num_heads": 2, "qkv_hidden_sizes": [8, 8, 8]}
    g.nodes.append(helper.make_node("Attention", inputs, ["h"], "attention", domain="com.microsoft", **sizes))
    g.node("MatMul", "h", g.weight("v", 8, 4), name="fc", output="y")
    model = g.model([value("x", ["N", "T", 8])], [value("y", ["N", "T", 4])])
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    t = Pair(model, T=4)
    assert_same(t.both({"attention": dynamic(), "fc": dynamic()}))
    with pytest.raises(TrialError, match="leave all 1 ops of the candidate in float"):
        t.build_fast({"attention": dynamic()})


def test_a_weight_that_a_static_op_reads_as_data_is_still_dynamic_for_its_own():
    """Here the engines differ on purpose: the reference refuses."""
    g = Graph()
    h = g.node("MatMul", "x", g.weight("w", 4, 4), name="fc")
    g.node("Mul", h, "w", name="product", output="y")
    t = Pair(g.model([value("x", [4, 4])], [value("y", [4, 4])]))
    configs = {"fc": dynamic(), "product": OpConfig("static", None, UINT8)}
    with pytest.raises(TrialError):
        t.build(configs)
    model = t.build_fast(configs)
    assert node_types(model)["MatMulInteger"] == 1
    assert relative_error(model, t) < 0.05


def test_a_weight_that_a_graph_inside_a_node_reads_too_is_quantized():
    branch = helper.make_graph(
        [helper.make_node("Identity", ["w"], ["then_out"])], "then", [], [value("then_out", None)]
    )
    other = helper.make_graph(
        [helper.make_node("Neg", ["w"], ["else_out"])], "else", [], [value("else_out", None)]
    )
    g = Graph()
    h = g.node("MatMul", "x", g.weight("w", 4, 4), name="fc")
    positive = g.node(
        "Greater", g.node("ReduceSum", h, name="sum", keepdims=0), g.constant("0", np.float32(0))
    )
    chosen = g.node("If", positive, name="choose", then_branch=branch, else_branch=other)
    g.node("Add", h, chosen, name="add", output="y")
    t = Pair(g.model([value("x", [4, 4])], [value("y", [4, 4])]))
    for config in (dynamic(), static()):
        model = t.build_fast({"fc": config})
        onnx.checker.check_model(model)
        assert relative_error(model, t) < 0.05


def test_a_uniform_dynamic_candidate_needs_no_feeds():
    t = Pair(mlp(), [])
    model = t.build_fast(weighted(t, dynamic(), "Gemm"))
    assert node_types(model)["MatMulInteger"] == 2
    assert relative_error(model, Pair(mlp(), feeds(mlp()))) < 0.05
    assert t.candidate({}).config_of("fc1") == FLOAT32
