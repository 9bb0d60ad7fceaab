"""Oracles: numpy's and ml_dtypes' rounding, onnxruntime's float16 converter, onnxruntime itself."""

from collections.abc import Mapping

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, numpy_helper
from onnxruntime.transformers.float16 import convert_float_to_float16

from disttune.config.errors import TrialError
from disttune.config.schemes import OpConfig
from disttune.quantize.digest import serialize
from disttune.quantize.engine import EngineSettings
from disttune.quantize.fast import FastEngine
from disttune.quantize.half_kernels import lacking_kernels
from disttune.quantize.session_values import give_to_session
from disttune.quantize.shared_tensors import SharedTensors
from disttune.quantize.tensor_memory import tensor_values, whole_model
from tests.models import Graph, attention, mlp, shared_weight, tiny_cnn, value, with_branches
from tests.quantize.engines import node_types, static
from tests.quantize.pairs import Pair
from tests.quantize.test_shelf import Dictionary

CPU = ["CPUExecutionProvider"]


def in_type(float_type: str) -> OpConfig:
    return OpConfig("float", float_type=float_type)


def constants(model: ModelProto) -> Mapping[str, TensorProto]:
    return {tensor.name: tensor for tensor in model.graph.initializer}


def types(model: ModelProto) -> dict[str, int]:
    return {name: tensor.data_type for name, tensor in constants(model).items()}


def outputs(model: ModelProto, feed: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    return onnxruntime.InferenceSession(serialize(model), providers=CPU).run(None, dict(feed))


def everywhere(t: Pair, float_type: str = "float16") -> dict[str, OpConfig]:
    return {op.name: in_type(float_type) for op in t.summary.ops if op.has_float_data}


def told_by(model: ModelProto, configs: Mapping[str, OpConfig]) -> tuple[ModelProto, list[str]]:
    """The model, and what the engine said."""
    t, lines = Pair(model), []
    engine = FastEngine(t.prepared, t.summary, t.feeds, EngineSettings(tell=lines.append))
    return engine.build(t.candidate(configs)), lines


@pytest.mark.parametrize("float_type", ["float16", "bfloat16"])
def test_weights_are_the_float32_ones_rounded_to_the_nearest(float_type):
    t = Pair(mlp())
    weights = {w.name: numpy_helper.to_array(w) for w in t.prepared.graph.initializer if len(w.dims) == 2}
    built = constants(t.build_fast(everywhere(t, float_type)))
    for name, array in weights.items():
        half = tensor_values(built[f"{name}_{float_type}"])
        assert half.dtype.name == float_type
        assert name not in built
        above, below = np.nextafter(half, half.dtype.type(9)), np.nextafter(half, half.dtype.type(-9))
        error = np.abs(half.astype(np.float64) - array)
        for other in (above, below):
            assert (error <= np.abs(other.astype(np.float64) - array)).all()


@pytest.mark.parametrize("make", [mlp, tiny_cnn, attention])
def test_a_model_all_in_float16_computes_what_onnxruntimes_converter_makes(make):
    t = Pair(make(), N=2, T=4) if make is attention else Pair(make(), N=2)
    ours = t.build_fast(everywhere(t))
    copy = ModelProto()
    copy.CopyFrom(t.prepared)
    theirs = convert_float_to_float16(copy, keep_io_types=True, op_block_list=[])
    for feed in t.feeds:
        for a, b in zip(outputs(ours, feed), outputs(theirs, feed), strict=True):
            np.testing.assert_array_equal(a, b)
    onnx.checker.check_model(ours, full_check=True)


def test_a_run_of_half_ops_has_one_cast_before_and_one_behind_it():
    t = Pair(tiny_cnn(), N=2)
    model = t.build_fast({"conv1": in_type("float16"), "conv2": in_type("float16")})
    assert node_types(model)["Cast"] == 2
    assert [n.name for n in model.graph.node if n.op_type == "Cast"] == ["x_float16_Cast", "conv2_3_out_Cast"]
    assert {types(model)[f"{name}_float16"] for name in ("w1", "b1", "w2", "b2")} == {TensorProto.FLOAT16}
    assert types(model)["w3"] == TensorProto.FLOAT


def test_inputs_and_outputs_of_the_model_stay_float32():
    t = Pair(mlp())
    model = t.build_fast(everywhere(t))
    assert (model.graph.input, model.graph.output) == (t.prepared.graph.input, t.prepared.graph.output)
    assert outputs(model, t.feeds[0])[0].dtype == np.float32


def test_half_ops_stand_beside_quantized_ones_in_both_engines():
    t = Pair(tiny_cnn(), N=2)
    configs = {"conv1": static(), "conv2": in_type("float16"), "fc": static()}
    reference, fast = t.both(configs)
    for feed in t.feeds:
        np.testing.assert_array_equal(outputs(reference, feed)[0], outputs(fast, feed)[0])
    assert types(fast)["w1_quantized"] == TensorProto.INT8
    assert types(fast)["w2_float16"] == TensorProto.FLOAT16


def test_a_weight_that_two_half_ops_share_is_stored_once():
    t = Pair(shared_weight())
    model = t.build_fast({"first": in_type("float16"), "second": in_type("float16")})
    assert types(model) == {"w_float16": TensorProto.FLOAT16}


def test_a_weight_that_a_float32_op_reads_as_well_is_stored_in_float32_alone():
    t = Pair(shared_weight())
    model = t.build_fast({"first": in_type("float16")})
    assert types(model) == {"w": TensorProto.FLOAT}
    readers = {node.name: list(node.input) for node in model.graph.node if node.op_type == "MatMul"}
    assert readers == {"first": ["x_float16", "w_float16"], "second": ["tanh_1_out", "w"]}


@pytest.mark.parametrize(("largest", "fits"), [(65504.0, True), (65519.0, True), (65520.0, False)])
def test_an_op_whose_weight_float16_cannot_hold_stays_in_float32_and_that_is_told_once(largest, fits):
    g = Graph()
    g.node("MatMul", "x", g.constant("w", np.float32([[largest, 1], [1, 1]])), name="fc", output="y")
    model = g.model([value("x", ["N", 2])], [value("y", ["N", 2])])
    built, lines = told_by(model, {"fc": in_type("float16")})
    assert types(built) == ({"w_float16": TensorProto.FLOAT16} if fits else {"w": TensorProto.FLOAT})
    told = ['float16: fc stays in float32: "w" has 65520, beyond the 65504 of float16']
    assert lines == ([] if fits else told)
    assert np.isfinite(outputs(built, {"x": np.ones((1, 2), np.float32)})[0]).all()


def test_bfloat16_holds_what_float16_cannot():
    g = Graph()
    g.node("MatMul", "x", g.constant("w", np.float32([[1e30]])), name="fc", output="y")
    built, lines = told_by(
        g.model([value("x", ["N", 1])], [value("y", ["N", 1])]), {"fc": in_type("bfloat16")}
    )
    assert (types(built), lines) == ({"w_bfloat16": TensorProto.BFLOAT16}, [])


def test_infinities_of_a_mask_stay_infinite():
    g = Graph()
    g.node("Add", "x", g.constant("mask", np.float32([0, -np.inf])), name="add", output="y")
    built, lines = told_by(g.model([value("x", [2])], [value("y", [2])]), {"add": in_type("float16")})
    assert outputs(built, {"x": np.ones(2, np.float32)})[0].tolist() == [1.0, -np.inf]
    assert lines == []


def test_an_op_that_has_no_such_type_at_the_models_opset_stays_in_float32():
    built, lines = told_by(tiny_cnn(), {"conv1": in_type("bfloat16")})
    assert set(types(built).values()) == {TensorProto.FLOAT}
    assert lines == ["bfloat16: conv1 stays in float32: Conv has no bfloat16 at opset 17"]


def test_what_a_schema_wants_in_float32_stays_so():
    g = Graph()
    h = g.node("Conv", "x", g.weight("w", 2, 1, 3, 3), name="conv")
    g.node("Resize", h, "", g.constant("scales", np.float32([1, 1, 2, 2])), name="resize", output="y")
    t = Pair(g.model([value("x", ["N", 1, 4, 4])], [value("y", ["N", 2, 4, 4])]), N=1)
    model = t.build_fast(everywhere(t))
    assert types(model) == {"w_float16": TensorProto.FLOAT16, "scales": TensorProto.FLOAT}
    assert outputs(model, t.feeds[0])[0].shape == (1, 2, 4, 4)


def test_a_graph_inside_a_node_reads_float32():
    t = Pair(with_branches(), N=2)
    model = t.build_fast({"before": in_type("float16"), "after": in_type("float16")})
    np.testing.assert_allclose(
        outputs(model, t.feeds[0])[0], outputs(t.prepared, t.feeds[0])[0], rtol=0.02, atol=0.02
    )
    assert [n.output[0] for n in model.graph.node if n.op_type == "Cast"].count("before_out") == 1


def test_a_node_with_graphs_inside_stays_in_float32():
    built, lines = told_by(with_branches(), {"choose": in_type("float16"), "after": in_type("float16")})
    assert lines == ["float16: choose stays in float32: the graphs inside If are of float32"]
    assert types(built)["w3_float16"] == TensorProto.FLOAT16


def test_names_that_the_model_has_already_are_not_taken():
    g = Graph()
    h = g.node("MatMul", "x", g.weight("w", 2, 2), name="one", output="x_float16")
    g.node("MatMul", h, g.weight("w_float16", 2, 2), name="two", output="y")
    t = Pair(g.model([value("x", ["N", 2])], [value("y", ["N", 2])]))
    model = t.build_fast({"one": in_type("float16")})
    np.testing.assert_allclose(
        outputs(model, t.feeds[0])[0], outputs(t.prepared, t.feeds[0])[0], rtol=0.02, atol=0.02
    )


def test_ops_that_the_job_holds_to_a_type_are_so_in_every_candidate_of_both_engines():
    t = Pair(tiny_cnn(), N=2)
    settings = EngineSettings(half_ops={"fc": "float16"})
    engines = [type(e)(t.prepared, t.summary, t.feeds, settings) for e in (t.engine, t.fast)]
    for configs in ({}, {"conv1": static()}):
        for engine in engines:
            built = types(engine.build(t.candidate(configs)))
            assert built["w3_float16"] == TensorProto.FLOAT16
            assert "w3" not in built


def test_a_quantized_op_beside_another_float_type_is_refused_by_both_engines():
    t = Pair(mlp())
    config = static()
    candidate = t.candidate(
        {"fc1": OpConfig(config.approach, config.weight, config.activation, float_type="float16")}
    )
    for engine in (t.engine, t.fast):
        with pytest.raises(TrialError, match="op fc1: beside codes the float type is float32, not float16"):
            engine.build(candidate)


def large() -> ModelProto:
    """Two MatMuls with 64 x 64 and 64 x 300 weights."""
    g = Graph(3)
    h = g.node("MatMul", "x", g.weight("w1", 64, 64, scale=0.1), name="fc1")
    g.node("MatMul", h, g.weight("w2", 64, 300, scale=0.1), name="fc2", output="y")
    return g.model([value("x", ["N", 64])], [value("y", ["N", 300])])


def test_size_counts_two_bytes_for_a_half_weight():
    t = Pair(large())
    shared = SharedTensors()
    sizes = [
        shared.size_bytes(t.fast.blueprint(t.candidate(configs)))
        for configs in ({}, {"fc2": in_type("float16")})
    ]
    assert sizes[0] - sizes[1] == pytest.approx(2 * 64 * 300, abs=250)
    whole = t.build_fast({"fc2": in_type("float16")})
    assert whole.ByteSize() == sizes[1]


def test_a_session_over_shared_tensors_computes_what_the_whole_model_does():
    t = Pair(large())
    candidate = t.candidate({"fc1": in_type("float16"), "fc2": static()})
    blueprint = t.fast.blueprint(candidate)
    model, values = SharedTensors().session_parts(blueprint)
    options = onnxruntime.SessionOptions()
    give_to_session(values, options)
    session = onnxruntime.InferenceSession(model, options, CPU)
    assert "w1_float16" in values
    for feed in t.feeds:
        expected = outputs(t.fast.build(candidate), feed)[0]
        np.testing.assert_array_equal(session.run(None, dict(feed))[0], expected)


def test_processes_of_a_node_hold_a_half_weight_once():
    t, shelf = Pair(large()), Dictionary()
    candidate = t.candidate({"fc1": in_type("float16"), "fc2": in_type("float16")})
    engines = [FastEngine(t.prepared, t.summary, t.feeds, EngineSettings(shelf=shelf)) for _ in range(2)]
    first, second = (engine.blueprint(candidate) for engine in engines)
    assert np.shares_memory(
        tensor_values(first.tensors["w2_float16"]), tensor_values(second.tensors["w2_float16"])
    )
    alone = t.fast.build(candidate)
    assert serialize(whole_model(engines[0].build(candidate))) == serialize(alone)


@pytest.mark.parametrize("float_type", ["float16", "bfloat16"])
@pytest.mark.parametrize("op_type", ["MatMul", "Relu", "Reshape", "Softmax", "LayerNormalization"])
def test_the_kernels_named_lacking_are_those_that_no_session_has(op_type, float_type):
    kind = {"float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}[float_type]
    g = Graph()
    second = {"MatMul": ["x"], "LayerNormalization": ["x"], "Reshape": ["shape"]}.get(op_type, [])
    g.constant("shape", np.int64([4]))
    g.node(op_type, "x", *second, name="n", output="y")
    shape = [2] if op_type == "LayerNormalization" else [2, 2]
    model = g.model([value("x", shape, kind)], [value("y", None, kind)], opset=18)
    try:
        onnxruntime.InferenceSession(serialize(model), providers=CPU)
        runs = True
    except onnxruntime.capi.onnxruntime_pybind11_state.NotImplemented:
        runs = False
    assert lacking_kernels([op_type], float_type, CPU) == ([] if runs else [op_type])


def test_a_provider_that_compiles_graphs_counts_as_able():
    assert lacking_kernels(["MatMul"], "bfloat16", ["TensorrtExecutionProvider", *CPU]) == []
