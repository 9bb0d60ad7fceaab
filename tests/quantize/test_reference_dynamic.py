"""Oracle: `onnxruntime.quantization.quantize_dynamic` on the same prepared model."""

import itertools

import onnx
import pytest

from disttune.config.errors import TrialError
from disttune.config.schemes import OpConfig, Scheme
from disttune.quantize.counts import count_quantized
from disttune.quantize.digest import model_digest, serialize
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
from tests.quantize.engines import Tried, arrays, dynamic, node_types, relative_error, stock_dynamic

UINT8 = Scheme("uint8", symmetric=False)
KINDS = list(itertools.product(["int8", "uint8"], [True, False], ["per_tensor", "per_channel"]))
REFUSED = {
    "Conv": {kind for kind in KINDS if kind[2] == "per_channel"},
    "LSTM": {kind for kind in KINDS if kind[0] == "uint8"} | {("int8", False, "per_channel")},
    "Gather": set(KINDS) - {("uint8", False, "per_tensor")},
}


def tried(make) -> Tried:
    return Tried(make(), feeds(make(), 3, N=1))


def weighted(t: Tried, config: OpConfig, *types: str) -> dict[str, OpConfig]:
    return {op.name: config for op in t.summary.ops if op.weight and op.op_type in types}


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("weight", ["int8", "uint8"])
@pytest.mark.parametrize("make", [mlp, attention, shared_weight])
def test_a_uniform_candidate_is_what_quantize_dynamic_makes(make, weight, per_channel):
    t = tried(make)
    configs = weighted(t, dynamic(weight, per_channel), "MatMul", "Gemm")
    model, stock = t.build(configs), stock_dynamic(t, configs)
    assert node_types(model) == node_types(stock)
    assert sorted(arrays(model).values(), key=str) == sorted(arrays(stock).values(), key=str)
    assert model_digest(model) == model_digest(stock)


@pytest.mark.parametrize(
    ("make", "op_type", "config"),
    [
        (depthwise_cnn, "Conv", dynamic("uint8")),
        (depthwise_cnn, "Conv", dynamic("int8")),
        (recurrent, "LSTM", dynamic("int8")),
        (recurrent, "LSTM", dynamic("int8", per_channel=True)),
        (recurrent, "Gather", dynamic("uint8")),
    ],
)
def test_other_types_are_what_quantize_dynamic_makes(make, op_type, config):
    t = tried(make)
    configs = weighted(t, config, op_type)
    model = t.build(configs)
    assert model_digest(model) == model_digest(stock_dynamic(t, configs))
    assert count_quantized(model) == len(configs)


@pytest.mark.parametrize(
    ("op_type", "kind"), list(itertools.product(["MatMul", "Gemm", "Conv", "LSTM", "Gather"], KINDS))
)
def test_every_accepted_weight_runs_and_every_other_is_refused_by_name(op_type, kind):
    t = tried({"MatMul": attention, "Gemm": mlp, "Conv": tiny_cnn}.get(op_type, recurrent))
    op, *_ = weighted(t, dynamic(), op_type)
    config = OpConfig("dynamic", Scheme(*kind), UINT8)
    if kind in REFUSED.get(op_type, ()):
        with pytest.raises(
            TrialError, match=f"^op {op}: onnxruntime's dynamic {op_type} has no weights {kind[0]}"
        ):
            t.build({op: config})
        return
    model = t.build({op: config})
    assert relative_error(model, t) < 0.05
    onnx.checker.check_model(model)
    assert serialize(t.build({op: config})) == serialize(model)


def test_ops_with_different_weights_are_quantized_each_in_its_way():
    t = tried(attention)
    configs = {"query": dynamic("int8"), "key": dynamic("uint8", True), "up": dynamic("int8", True)}
    model = t.build(configs)
    found = {name: (kind, shape) for name, (kind, shape, _) in arrays(model).items() if "quantized" in name}
    assert found == {
        "wq_quantized": ("int8", [8, 8]),
        "wk_quantized": ("uint8", [8, 8]),
        "wu_quantized": ("int8", [8, 16]),
    }
    scales = {name: shape for name, (_, shape, _) in arrays(model).items() if name.endswith("_scale")}
    assert scales == {"wq_scale": [], "wk_scale": [8], "wu_scale": [16]}
    assert node_types(model)["DynamicQuantizeLinear"] == 2  # x is read by two of them and quantized once


def test_a_gemm_that_stays_in_float_stays_a_gemm():
    t = tried(mlp)
    model = t.build({"fc1": dynamic()})
    assert (node_types(model)["Gemm"], node_types(model)["MatMulInteger"]) == (1, 1)


def test_gemms_that_share_a_transposed_weight_both_read_it_the_right_way_round():
    g = Graph()
    h = g.node("Gemm", "x", g.weight("w", 4, 4), name="first", transB=1)
    g.node("Gemm", h, "w", g.weight("b", 4), name="second", output="y", transB=1)
    model = g.model([value("x", ["N", 4])], [value("y", ["N", 4])])
    t = Tried(model, feeds(model))
    assert relative_error(t.build({"first": dynamic(), "second": dynamic()}), t) < 0.03


def test_a_gemm_with_a_factor_has_no_dynamic_form():
    g = Graph()
    g.node("Gemm", "x", g.weight("w", 4, 4), g.weight("b", 4), name="scaled", output="y", alpha=0.5)
    model = g.model([value("x", ["N", 4])], [value("y", ["N", 4])])
    with pytest.raises(TrialError, match=r"^dynamic quantization of op scaled failed .*alpha"):
        Tried(model, feeds(model)).build({"scaled": dynamic()})


@pytest.mark.parametrize(
    ("op", "config", "message"),
    [
        (
            "relu",
            dynamic(),
            "op relu: onnxruntime quantizes no Relu dynamically; it does Attention, Conv, Gather,",
        ),
        (
            "scores",
            dynamic(),
            "op scores: a MatMul without a constant weight cannot be quantized dynamically",
        ),
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
        tried(attention).build({op: config})
    assert str(caught.value).startswith(message)
