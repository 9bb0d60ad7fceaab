"""Candidates whose ops differ. Oracle: the schemes asked for, read back from the built model."""

import os
import subprocess
import sys

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, numpy_helper

from disttune.config.errors import InputError, InternalError, TrialError
from disttune.config.schemes import FLOAT32, OpConfig, Scheme
from disttune.quantize.digest import model_digest, serialize
from disttune.quantize.engine import EngineSettings, engine_names, find_engine
from disttune.space.candidate import Candidate
from tests.models import Graph, attention, feeds, recurrent, shared_weight, tiny_cnn, value
from tests.quantize.engines import Tried, array, dynamic, node_of, node_types, outputs, relative_error, static


def tried(make) -> Tried:
    return Tried(make(), feeds(make(), 3, N=2, T=4))


def dtype(model: ModelProto, name: str) -> str:
    return str(array(model, name).dtype)


def weight_input(model: ModelProto, node: str) -> tuple[str, tuple[int, ...]]:
    """Type of the codes and shape of the scale of a node's weight; "float32" and () for a float one."""
    source = node_of(model, node).input[1]
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    if source in constants:
        return str(constants[source].dtype), ()
    dequantize = next(n for n in model.graph.node if source in n.output)
    return str(constants[dequantize.input[0]].dtype), constants[dequantize.input[1]].shape


def chain(*types: str) -> ModelProto:
    """Nodes of these types with the names a, b, c ..., each reading the one before; MatMuls have a weight."""
    g = Graph()
    h = "x"
    for i, op_type in enumerate(types):
        name = "abcdef"[i]
        inputs = [h, g.weight(f"w{name}", 4, 4)] if op_type == "MatMul" else [h]
        h = g.node(op_type, *inputs, name=name, output="y" if i == len(types) - 1 else f"{name}_out")
    return g.model([value("x", ["N", 4])], [value("y", ["N", 4])])


def of_chain(*types: str) -> Tried:
    return Tried(chain(*types), feeds(chain(*types), N=16))


def test_every_op_gets_the_weight_that_it_asks_for():
    t = tried(attention)
    model = t.build(
        {
            "query": static("int8", per_channel=True),
            "key": static("uint8", per_channel=False),
            "up": static("int16"),
        }
    )
    assert weight_input(model, "query") == ("int8", (8,))
    assert weight_input(model, "key") == ("uint8", ())
    assert weight_input(model, "up") == ("int16", (16,))
    assert weight_input(model, "down") == ("float32", ())


def test_a_tensor_between_two_ops_takes_the_scheme_of_the_one_that_reads_it():
    model = of_chain("MatMul", "MatMul").build(
        {"a": static(activation="uint8"), "b": static(activation="uint16")}
    )
    assert [dtype(model, f"{name}_zero_point") for name in ("x", "a_out", "y")] == [
        "uint8",
        "uint16",
        "uint16",
    ]


def test_a_tensor_that_only_float_ops_read_takes_the_scheme_of_its_producer():
    model = of_chain("MatMul", "Tanh").build({"a": static(activation="uint16")})
    assert dtype(model, "a_out_zero_point") == "uint16"


def test_a_tensor_with_several_readers_takes_the_scheme_of_the_first():
    t = tried(attention)
    order = [op.name for op in t.summary.ops if op.name in ("query", "key", "value")]
    kinds = dict(zip(order, ("uint16", "uint8", "int8"), strict=True))
    model = t.build({op: static(activation=kind) for op, kind in kinds.items()})
    assert dtype(model, "x_zero_point") == "uint16"
    kinds[order[0]] = "float"
    model = t.build({op: static(activation=kind) for op, kind in kinds.items() if kind != "float"})
    assert dtype(model, "x_zero_point") == "uint8"


def test_each_tensor_is_clipped_by_the_method_of_its_scheme():
    t = of_chain("MatMul", "Tanh", "MatMul")
    ranges = {
        method: t.build({"a": static(method="minmax"), "c": static(method=method, parameter=50.0)})
        for method in ("minmax", "percentile")
    }
    scales = {method: [array(m, f"{n}_scale") for n in ("x", "b_out")] for method, m in ranges.items()}
    assert scales["minmax"][0] == scales["percentile"][0]
    assert scales["minmax"][1] > 1.2 * scales["percentile"][1]


@pytest.mark.parametrize("symmetric", [False, True])
def test_a_relu_before_codes_goes_only_where_the_lowest_code_is_zero(symmetric):
    t = of_chain("MatMul", "Relu", "MatMul")
    config = static(activation="int8", symmetric=symmetric)
    model = t.build({"a": static(), "b": OpConfig("static", None, config.activation), "c": config})
    assert node_types(model)["Relu"] == symmetric
    assert relative_error(model, t) < 0.05


def test_ops_that_share_a_weight_and_differ_get_a_copy_each():
    t = tried(shared_weight)
    model = t.build({"first": static("int8", per_channel=True), "second": static("uint8", per_channel=False)})
    assert weight_input(model, "first") == ("int8", (4,))
    assert weight_input(model, "second") == ("uint8", ())


def test_an_op_in_float_keeps_its_weight_when_another_quantizes_it():
    t = tried(shared_weight)
    model = t.build({"second": static()})
    assert weight_input(model, "first") == ("float32", ())
    assert weight_input(model, "second") == ("int8", (4,))
    assert np.array_equal(array(model, node_of(model, "first").input[1]), array(t.prepared, "w"))


def test_ops_that_share_a_weight_and_agree_read_one_copy():
    model = tried(shared_weight).build({"first": static(), "second": static()})
    assert [name for name in (i.name for i in model.graph.initializer) if "quantized" in name] == [
        "w_quantized"
    ]


def test_ops_outside_the_space_go_with_the_first_reader_of_their_weight():
    t = tried(shared_weight)
    candidate = Candidate.of({"second": static()})
    model = t.engine.build(candidate)
    assert weight_input(model, "first") == weight_input(model, "second") == ("int8", (4,))


@pytest.mark.parametrize("recipes", [{}, {"dedicated_qdq_pair": True}, {"add_qdq_pair_to_weight": True}])
@pytest.mark.parametrize("first", ["static", "dynamic"])
def test_static_and_dynamic_ops_stand_side_by_side(first, recipes):
    t = tried(attention)
    ops = [op.name for op in t.summary.ops if op.weight]
    static_ops = ops[0::2] if first == "static" else ops[1::2]
    configs = {op: static() if op in static_ops else dynamic() for op in ops}
    model = t.build(configs, **recipes)
    onnx.checker.check_model(model, full_check=True)
    assert node_types(model)["MatMulInteger"] == len(ops) - len(static_ops)
    assert all(weight_input(model, op)[0] == "int8" for op in static_ops if not recipes)
    assert relative_error(model, t) < 0.05


def test_an_output_that_others_read_can_be_static_and_dynamic():
    g = Graph()
    g.node("MatMul", "x", g.weight("w", 4, 4), name="a", output="y")
    g.node("MatMul", "y", g.weight("v", 4, 4), name="b", output="z")
    t = Tried(g.model([value("x", ["N", 4])], [value("y", ["N", 4]), value("z", ["N", 4])]), [])
    t = Tried(t.prepared, feeds(t.prepared))
    model = t.build({"a": static(activation="uint16"), "b": dynamic()})
    onnx.checker.check_model(model, full_check=True)
    assert relative_error(model, t) < 0.05


def test_a_dynamic_lstm_behind_a_static_table_is_quantized():
    t = tried(recurrent)
    model = t.build({"table": static("uint8", per_channel=False), "lstm": dynamic(), "fc": static()})
    assert node_types(model)["DynamicQuantizeLSTM"] == 1
    assert relative_error(model, t) < 0.05


def test_a_static_lstm_has_both_weights_quantized():
    t = tried(recurrent)
    model = t.build({"lstm": static("int8", per_channel=False)})
    assert [dtype(model, f"{name}_quantized") for name in ("w", "r")] == ["int8", "int8"]
    assert relative_error(model, t) < 0.05


COMMON = [
    FLOAT32,
    static(),
    static(per_channel=False),
    static("uint8", per_channel=False),
    static(method="percentile", parameter=99.0),
    static(method="entropy"),
    dynamic(),
    dynamic("uint8", per_channel=True),
]
# Not both in one model: 16-bit types raise the opset to 21, and there onnxruntime 1.31 cannot load int8
# activations around a Transpose (its int8 to uint8 pass forgets the attribute output_dtype).
EXTRAS = [static("int8", "int8", symmetric=True), static(activation="uint16")]
MIXED = Tried(attention(), feeds(attention(), 3, N=2, T=4))


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_mix_is_valid_runs_and_is_built_the_same_twice(data):
    t = MIXED
    schemes = st.sampled_from([*COMMON, data.draw(st.sampled_from(EXTRAS))])
    ops = [op.name for op in t.summary.ops if op.weight]
    configs = {op: data.draw(schemes, label=op) for op in ops}
    model = t.build(configs)
    onnx.checker.check_model(model)
    assert relative_error(model, t) < 0.1
    assert serialize(t.build(configs)) == serialize(model)
    for op, config in configs.items():
        if config.approach == "static":
            assert config.weight is not None
            assert weight_input(model, op)[0] == config.weight.dtype
        elif config.approach == "float":
            assert weight_input(model, op) == ("float32", ())
    n_dynamic = sum(config.approach == "dynamic" for config in configs.values())
    assert node_types(model)["MatMulInteger"] == n_dynamic


def test_fused_kernels_differ_from_the_plain_graph_by_a_code_at_most():
    t = of_chain("MatMul")
    model = t.build({"a": static()})
    pairs = zip(outputs(model, t.feeds), outputs(model, t.feeds, optimize=False), strict=True)
    assert max(float(np.abs(a - b).max()) for a, b in pairs) <= 1.001 * array(model, "y_scale")


@pytest.mark.parametrize(
    ("op", "config", "message"),
    [
        ("up", static("float8e5m2"), 'op up: engine "reference" has no float8e5m2'),
        (
            "up",
            OpConfig("static", Scheme("int8", True)),
            "op up: static quantization needs a scheme for the act",
        ),
        (
            "up",
            static("uint8", "int8"),
            "op up: onnxruntime's quantizer does not do int8 activations with uint8",
        ),
        (
            "up",
            OpConfig("static", Scheme("int8", True, "per_group", 16), Scheme("uint8", False)),
            'op up: engine "reference" does not quantize in groups',
        ),
        (
            "up",
            OpConfig("static", Scheme("int8", True), Scheme("uint8", False, "per_channel")),
            "op up: activations are quantized per tensor, not per_channel",
        ),
        (
            "up",
            static(method="mse"),
            'op up: engine "reference" has no method mse; it has distribution, entropy,',
        ),
        (
            "up",
            OpConfig("weight_only", Scheme("int4", True)),
            'op up: engine "reference" quantizes weights alone to int8 or uint8, not int4',
        ),
        (
            "scores",
            OpConfig("weight_only", None),
            "op scores: there is no weight to quantize",
        ),
        (
            "up",
            OpConfig("static", Scheme("int8", True, method="entropy"), Scheme("uint8", False)),
            'op up: engine "reference" takes weights by their minimum and maximum, not by entropy',
        ),
    ],
)
def test_what_cannot_be_built_is_named(op, config, message):
    with pytest.raises(TrialError) as caught:
        tried(attention).build({op: config})
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_a_recipe_that_it_does_not_know_is_an_error():
    with pytest.raises(TrialError, match='engine "reference" has no recipe smooth_quant'):
        tried(tiny_cnn).build({"conv1": static()}, smooth_quant=True)


def test_recipes_that_the_space_resolved_change_nothing():
    t = tried(tiny_cnn)
    configs = {"conv2": static()}
    resolved = t.build(configs, first_conv_or_matmul_quantization=False)
    assert model_digest(resolved) == model_digest(t.build(configs))


def test_an_op_that_is_left_in_float_is_no_success():
    t = tried(tiny_cnn)
    with pytest.raises(TrialError, match="left all 1 ops of the candidate in float"):
        t.build({"relu1": OpConfig("static", None, Scheme("uint8", False))})  # its input has no codes


def test_an_activation_that_is_not_finite_is_named():
    g = Graph()
    g.node("MatMul", g.node("Log", "x", name="log", output="logs"), g.weight("w", 4, 4), name="a", output="y")
    model = g.model([value("x", ["N", 4])], [value("y", ["N", 4])])
    t = Tried(model, [{"x": np.zeros((1, 4), np.float32)}])
    with pytest.raises(TrialError, match='tensor "logs" holds NaN or infinity'):
        t.build({"a": static()})


@pytest.mark.parametrize("method", ["minmax", "percentile"])
def test_feeds_that_the_model_refuses_are_an_error_of_the_trial(method):
    t = Tried(tiny_cnn(), [{"x": np.zeros((1, 3, 8), np.float32)}])
    with pytest.raises(TrialError, match=f"calibration with {method} failed: "):
        t.build({"conv1": static(method=method, parameter=99.0)})


def test_a_fault_inside_onnxruntime_is_one_line_with_the_op(monkeypatch):
    t = tried(tiny_cnn)
    monkeypatch.setattr("onnxruntime.quantization.QDQQuantizer.quantize_model", lambda self: [][1])
    expected = r"^static quantization of op conv1 and 1 others failed in onnxruntime: IndexError: [^\n]*$"
    with pytest.raises(TrialError, match=expected):
        t.build({"conv1": static(), "conv2": static()})


def test_static_ops_need_feeds():
    with pytest.raises(TrialError, match="needs calibration feeds, and there are none"):
        Tried(tiny_cnn(), []).build({"conv1": static()})


def test_a_bias_that_another_op_reads_as_data_is_quantized_as_data():
    g = Graph()
    g.node("Gemm", "x", g.weight("w", 4, 4), g.weight("b", 4), name="dense", output="y")
    shape = g.node("Shape", "y", name="shape")
    g.node("Reshape", "b", shape, name="table", output="z")
    model = g.model([value("x", ["N", 4])], [value("y", ["N", 4]), value("z", ["N", 4])])
    t = Tried(model, feeds(model, N=1))
    built = t.build({"dense": static(), "table": OpConfig("static", None, Scheme("uint8", False))})
    assert dtype(built, "b_quantized") == "uint8"
    assert relative_error(built, t) < 0.05  # quantize_static never returns from this model


def test_a_large_model_goes_through_files_with_external_data(monkeypatch):
    g = Graph()
    g.node("MatMul", "x", g.weight("w", 64, 64), name="a", output="a_out")
    g.node("MatMul", "a_out", g.weight("v", 64, 64), name="b", output="y")
    model = g.model([value("x", ["N", 64])], [value("y", ["N", 64])])
    configs = {"a": static(method="entropy"), "b": dynamic()}
    small = Tried(model, feeds(model)).build(configs)
    for module in ("builder", "calibration"):
        monkeypatch.setattr(f"disttune.quantize.reference.{module}.LARGE_BYTES", 0)
    assert model_digest(Tried(model, feeds(model)).build(configs)) == model_digest(small)


def test_a_candidate_of_another_model_is_our_fault():
    with pytest.raises(InternalError, match="op nowhere"):
        tried(tiny_cnn).engine.build(Candidate.of({"nowhere": static()}))


MANY_WAYS = {"query": static(method="entropy"), "up": static(activation="uint16"), "down": dynamic()}


def test_building_is_silent(capfd):
    Tried(attention(), feeds(attention())).build(MANY_WAYS)
    assert capfd.readouterr() == ("", "")


def test_temporary_files_go_where_they_are_told_and_are_removed(tmp_path, monkeypatch):
    settings = EngineSettings(directory=tmp_path)
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
        Tried(attention(), feeds(attention()), settings, tmp_path).build(MANY_WAYS)
    assert list(tmp_path.iterdir()) == []


def test_engines_are_found_by_name():
    assert engine_names() == ["fast", "reference"]
    assert find_engine("reference").methods == {"minmax", "entropy", "percentile", "distribution"}
    with pytest.raises(InputError, match=r'no engine "fats"\. Nearest: "fast"\. All: fast, reference\.'):
        find_engine("fats")


def test_asking_for_an_engine_loads_no_onnx():
    code = (
        "import sys; from disttune.quantize.engine import find_engine; find_engine('reference').methods;"
        "sys.exit(any(name in sys.modules for name in ('onnx', 'onnxruntime', 'numpy')))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0
