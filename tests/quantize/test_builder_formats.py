"""Types of codes, and the operator sets that they need."""

import numpy as np
import onnx
import pytest
from onnx import ModelProto

from disttune.config.errors import TrialError
from disttune.config.schemes import OpConfig, Scheme
from disttune.quantize.digest import model_digest
from disttune.quantize.topology import default_opset
from tests.models import Graph, attention, mlp, tiny_cnn, value
from tests.quantize.engines import array, node_of, node_types, outputs, relative_error, static
from tests.quantize.pairs import Pair

UINT8 = Scheme("uint8", symmetric=False)


def domains(model: ModelProto) -> set[str]:
    return {node.domain for node in model.graph.node if node.op_type.endswith("eLinear")}


def wide(opset: int = 17, n: int = 64) -> ModelProto:
    """fc: MatMul; x (N, n) to y (N, 8)."""
    g = Graph()
    g.node("MatMul", "x", g.weight("w", n, 8), name="fc", output="y")
    return g.model([value("x", ["N", n])], [value("y", ["N", 8])], opset)


@pytest.mark.parametrize("opset", [17, 21])
@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("weight", ["int4", "uint4", "int16", "uint16"])
def test_4_and_16_bit_weights_are_what_the_reference_makes(weight, per_channel, opset):
    t = Pair(wide(opset))
    config = static(weight, "uint16", per_channel)
    reference, fast = t.both({"fc": config})
    assert model_digest(fast) == model_digest(reference)
    onnx.checker.check_model(fast)
    assert relative_error(fast, t) < 0.4


@pytest.mark.parametrize("make", [tiny_cnn, mlp, attention])
def test_4_bit_weights_beside_8_bit_activations_leave_the_opset_and_take_the_other_domain(make):
    t = Pair(make(), N=2, T=4)
    reference, fast = t.both(t.everywhere(static("int4"), "Conv", "Gemm", "MatMul"))
    assert model_digest(fast) == model_digest(reference)
    assert (default_opset(fast), domains(fast)) == (17, {"com.microsoft"})
    onnx.checker.check_model(fast)
    assert relative_error(fast, t) < 0.5


def test_16_bit_types_raise_the_opset():
    fast = Pair(tiny_cnn()).build_fast({"conv1": static(activation="uint16"), "conv2": static("int4")})
    assert (default_opset(fast), domains(fast)) == (21, {""})
    onnx.checker.check_model(fast, full_check=True)


def test_a_scheme_that_no_tensor_takes_raises_nothing():
    g = Graph()
    g.node("MatMul", "x", g.weight("w", 4, 4), name="first", output="y")
    shaped = g.node("Reshape", "x", g.node("Shape", "y", name="shape"), name="reshape")  # behind "first"
    g.node("MatMul", shaped, g.weight("v", 4, 4), name="last", output="z")
    t = Pair(g.model([value("x", ["N", 4])], [value("y", ["N", 4]), value("z", ["N", 4])]))
    bare = OpConfig("static", None, Scheme("uint16", False))
    reference, fast = t.both({"first": static(), "reshape": bare, "last": static()})
    assert model_digest(fast) == model_digest(reference)
    assert default_opset(fast) == 17


def test_raising_leaves_weights_that_are_not_quantized_as_they_are():
    g = Graph()
    h = g.node("MatMul", "x", g.weight("w", 64, 64), name="a")
    g.node("MatMul", h, g.weight("v", 64, 64), name="b", output="y")
    t = Pair(g.model([value("x", ["N", 64])], [value("y", ["N", 64])]))
    model = t.build_fast({"a": static("int16", "int16", symmetric=True)})
    assert np.array_equal(array(model, "v"), array(t.prepared, "v"))
    assert relative_error(model, t) < 1e-3


def break_converter(monkeypatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("Adapter for Gadget not found\nsecond line")

    monkeypatch.setattr("onnx.version_converter.convert_version", fail)


def test_a_model_that_cannot_be_raised_takes_the_other_domain_for_16_bits(monkeypatch):
    break_converter(monkeypatch)
    t = Pair(wide())
    reference, fast = t.both({"fc": static(activation="uint16")})
    assert model_digest(fast) == model_digest(reference)
    assert (default_opset(fast), domains(fast)) == (17, {"com.microsoft"})


@pytest.mark.parametrize(
    ("weight", "reason"),
    [
        (Scheme("int8", True, "per_group", 16), "groups need opset 21"),
        (Scheme("float8e4m3fn", True), "float8 need opset 19"),
    ],
)
def test_a_type_that_needs_a_later_opset_is_refused_in_a_model_that_cannot_be_raised(
    monkeypatch, weight, reason
):
    break_converter(monkeypatch)
    expected = f"{reason}, the model has 17 and cannot be raised: Adapter for Gadget not found. Export"
    with pytest.raises(TrialError, match=expected):
        Pair(wide()).build_fast({"fc": OpConfig("weight_only", weight)})


def test_a_raised_model_that_computes_something_else_is_not_used(monkeypatch):
    def wrong(model: ModelProto, opset: int) -> ModelProto:
        raised = ModelProto()
        raised.CopyFrom(model)
        raised.opset_import[0].version = opset
        raised.graph.node[0].op_type = "Relu"
        del raised.graph.node[0].input[1:]
        return raised

    monkeypatch.setattr("onnx.version_converter.convert_version", wrong)
    g = Graph()
    h = g.node("Add", "x", g.weight("b", 4), name="add")
    g.node("MatMul", h, g.weight("w", 4, 4), name="fc", output="y")
    t = Pair(g.model([value("x", ["N", 4])], [value("y", ["N", 4])]))
    assert default_opset(t.build_fast({"fc": static(activation="uint16")})) == 17


@pytest.mark.parametrize(
    ("dtype", "approach"),
    [*((dtype, "weight_only") for dtype in ("int8", "uint8", "int4", "uint4")), ("int4", "static")],
)  # not 8 bits beside static activations: onnxruntime fuses them into QLinearMatMul, which refuses groups
def test_groups_have_a_scale_each(dtype, approach):
    weight = Scheme(dtype, dtype.startswith("int"), "per_group", 16)
    config = OpConfig(approach, weight, UINT8 if approach == "static" else None)
    t = Pair(wide())
    model = t.build_fast({"fc": config})
    onnx.checker.check_model(model, full_check=True)
    assert array(model, "w_scale").shape == (4, 8)
    dequantize = next(n for n in model.graph.node if n.input[0] == "w_quantized")
    assert {a.name: a.i for a in dequantize.attribute} == {"axis": 0, "block_size": 16}
    assert relative_error(model, t) < (0.02 if "8" in dtype else 0.3)


def test_a_bias_behind_groups_stays_in_float():
    g = Graph()
    g.node("Gemm", "x", g.weight("w", 8, 64), g.weight("b", 8), name="fc", output="y", transB=1, beta=0.5)
    t = Pair(g.model([value("x", ["N", 64])], [value("y", ["N", 8])]))
    model = t.build_fast({"fc": OpConfig("static", Scheme("int8", True, "per_group", 32), UINT8)})
    assert array(model, "w_scale").shape == (8, 2)
    assert "b" in node_of(model, "fc").input
    assert relative_error(model, t) < 0.02


def test_an_op_without_an_axis_for_groups_is_refused():
    g = Graph()
    g.node(
        "LSTM", "x", g.weight("w", 1, 16, 3), g.weight("r", 1, 16, 4), name="lstm", output="y", hidden_size=4
    )
    t = Pair(g.model([value("x", ["T", "N", 3])], [value("y", ["T", 1, "N", 4])]))
    with pytest.raises(TrialError, match="op lstm: the weight of a LSTM is not quantized in groups"):
        t.build_fast({"lstm": OpConfig("static", Scheme("int8", True, "per_group", 4), UINT8)})


@pytest.mark.parametrize("dtype", ["float8e4m3fn", "float8e5m2"])
@pytest.mark.parametrize("per_channel", [True, False])
def test_float8_weights_run_where_the_activations_stay_in_float(dtype, per_channel):
    weight = Scheme(dtype, True, "per_channel" if per_channel else "per_tensor")
    t = Pair(wide())
    model = t.build_fast({"fc": OpConfig("weight_only", weight)})
    onnx.checker.check_model(model, full_check=True)
    assert default_opset(model) == 19
    (codes,) = (t for t in model.graph.initializer if t.name == "w_quantized")
    assert onnx.TensorProto.DataType.Name(codes.data_type).lower() == dtype
    assert relative_error(model, t) < 0.1


def test_float8_activations_make_a_valid_model_and_keep_relu():
    t = Pair(tiny_cnn())
    config = OpConfig("static", Scheme("float8e4m3fn", True), Scheme("float8e4m3fn", True))
    model = t.build_fast({**t.everywhere(config)})
    onnx.checker.check_model(model, full_check=True)
    assert node_types(model)["Relu"] == 2
    plain = outputs(model, t.feeds, optimize=False)  # the optimizer fuses it into operators that refuse it
    pairs = zip(plain, outputs(t.prepared, t.feeds), strict=True)
    assert max(np.abs(a - b).max() / np.abs(b).max() for a, b in pairs) < 0.2


def test_a_weight_alone_has_codes_in_a_weight_only_op():
    t = Pair(attention(), T=4)
    model = t.build_fast({"up": OpConfig("weight_only", Scheme("int8", True, "per_channel"))})
    assert node_types(model)["QuantizeLinear"] == 0
    assert node_types(model)["DequantizeLinear"] == 1
    assert relative_error(model, t) < 0.01


@pytest.mark.parametrize("dtype", ["int2", "uint2", "int3", "uint5", "int6", "uint7"])
def test_a_weight_of_any_bits_goes_in_the_next_larger_type(dtype):
    bits, t = int(dtype[-1]), Pair(attention(), T=4)
    config = OpConfig("weight_only", Scheme(dtype, dtype.startswith("int"), "per_channel"))
    model = t.build_fast({"up": config})
    (codes,) = (t for t in model.graph.initializer if t.name.endswith("_quantized"))
    assert onnx.TensorProto.DataType.Name(codes.data_type).lower() == dtype.replace(
        str(bits), "4" if bits < 4 else "8"
    )
    assert len(np.unique(onnx.numpy_helper.to_array(codes).astype(int))) <= 2**bits
    assert relative_error(model, t) < 2.0 ** (2 - bits)


def test_a_weight_only_op_needs_a_weight():
    with pytest.raises(
        TrialError, match="op scores: a MatMul without a constant weight has no weight-only form"
    ):
        Pair(attention(), T=4).build_fast({"scores": OpConfig("weight_only", Scheme("int8", True))})


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (static("int8", "int9"), 'op up: engine "fast" has no int9; it has int8, uint8, int16,'),
        (static("int8", "int3"), "op up: int3 is a type of weights; ONNX quantizes no activation to it"),
        (OpConfig("static", Scheme("int8", True)), "op up: static quantization needs a scheme for the act"),
        (static("uint8", "int8"), "op up: onnxruntime does not do int8 activations with uint8 weights"),
        (
            OpConfig("static", Scheme("int8", True), Scheme("uint8", False, "per_channel")),
            "op up: activations are quantized per tensor, not per_channel",
        ),
        (static(method="magic"), 'op up: engine "fast" has no method magic; it has distribution, ema,'),
    ],
)
def test_what_cannot_be_built_is_named(config, message):
    with pytest.raises(TrialError) as caught:
        Pair(attention(), T=4).build_fast({"up": config})
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
