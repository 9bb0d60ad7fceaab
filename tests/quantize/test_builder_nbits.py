"""MatMulNBits: against onnxruntime's quantizer byte for byte, and against the form with DequantizeLinear."""

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto
from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer

from disttune.config.errors import TrialError
from disttune.config.schemes import OpConfig, Scheme
from disttune.quantize.counts import count_quantized
from disttune.quantize.engine import EngineSettings
from disttune.quantize.fast import FastEngine
from disttune.space.candidate import Candidate
from tests.models import Graph, attention, mlp, value
from tests.quantize.engines import array, node_types, outputs
from tests.quantize.pairs import Pair


def matrix(n_inputs: int, n_outputs: int, op_type: str = "MatMul", **attributes: float) -> ModelProto:
    """fc: y (N, n_outputs) = x (N, n_inputs) times w; a Gemm has a bias."""
    g = Graph(seed=3)
    turned = attributes.get("transB", 0)
    weight = g.weight("w", *((n_outputs, n_inputs) if turned else (n_inputs, n_outputs)))
    bias = (g.weight("b", n_outputs),) if op_type == "Gemm" else ()
    g.node(op_type, "x", weight, *bias, name="fc", output="y", **attributes)
    return g.model([value("x", ["N", n_inputs])], [value("y", ["N", n_outputs])])


def the_node(model: ModelProto) -> onnx.NodeProto:
    (node,) = (node for node in model.graph.node if node.op_type == "MatMulNBits")
    return node


def run(model: ModelProto, t: Pair) -> np.ndarray:
    """Outputs for all feeds; DequantizeLinear is not fused, which would quantize activations."""
    return np.concatenate(outputs(model, t.feeds, optimize=False))


def build(t: Pair, configs: dict[str, OpConfig], form: str = "matmulnbits", level: int = 0) -> ModelProto:
    settings_ = EngineSettings(weight_only_format=form, accuracy_level=level)
    engine = FastEngine(t.prepared, t.summary, t.feeds, settings_)
    ops = {op.name: configs.get(op.name, OpConfig("float")) for op in t.summary.ops}
    return engine.build(Candidate.of(ops))


def alone(
    dtype: str, symmetric: bool, group_size: int | None = 32, method: str = "rtn", **options: bool
) -> OpConfig:
    granularity = "per_group" if group_size else "per_channel"
    pairs = tuple(sorted(options.items()))
    return OpConfig("weight_only", Scheme(dtype, symmetric, granularity, group_size, method, options=pairs))


def of_onnxruntime(model: ModelProto, bits: int, block: int, symmetric: bool, level: int) -> ModelProto:
    copy = ModelProto()
    copy.CopyFrom(model)
    config = DefaultWeightOnlyQuantConfig(
        block_size=block, is_symmetric=symmetric, accuracy_level=level or None, bits=bits
    )
    quantizer = MatMulNBitsQuantizer(copy, algo_config=config)
    quantizer.process()
    made: ModelProto = quantizer.model.model
    return made


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("block", [16, 32, 64, 128, 256])
def test_rtn_is_what_onnxruntimes_quantizer_makes_byte_for_byte(
    bits: int, symmetric: bool, block: int
) -> None:
    t = Pair(matrix(200, 24))  # the last block is not full, and zero points of a row end within a byte
    model = build(t, {"fc": alone(f"uint{bits}", symmetric, block)}, level=4)
    reference = of_onnxruntime(t.prepared, bits, block, symmetric, 4)
    node, other = the_node(model), the_node(reference)
    assert sorted(node.attribute, key=str) == sorted(other.attribute, key=str)
    assert len(node.input) == len(other.input) == (3 if symmetric else 4)
    for name, other_name in zip(node.input[1:], other.input[1:], strict=True):
        found, expected = array(model, name), array(reference, other_name)
        assert found.dtype == expected.dtype
        assert found.reshape(expected.shape).tobytes() == expected.tobytes()


FORMS = st.tuples(
    st.sampled_from([f"{sign}int{bits}" for bits in range(2, 9) for sign in ("", "u")]),
    st.booleans(),
    st.sampled_from([None, 16, 64]),
    st.integers(1, 150),
    st.sampled_from([("MatMul", {}), ("Gemm", {}), ("Gemm", {"transB": 1})]),
)


@settings(max_examples=40, deadline=None)
@given(FORMS)
def test_both_forms_give_the_same_outputs(form) -> None:
    dtype, symmetric, group_size, n_inputs, (op_type, attributes) = form
    t = Pair(matrix(n_inputs, 5, op_type, **attributes))
    configs = {"fc": alone(dtype, symmetric, group_size, "minmax")}
    nbits, qdq = (build(t, configs, name) for name in ("matmulnbits", "qdq"))
    onnx.checker.check_model(nbits)
    assert node_types(nbits)["MatMulNBits"] == 1
    assert node_types(qdq)["DequantizeLinear"] == 1
    found, expected = (run(model, t) for model in (nbits, qdq))
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-4 * float(np.abs(expected).max()))
    assert count_quantized(nbits) == 1


def test_a_level_that_is_not_set_leaves_the_attribute_out_and_the_opset_alone() -> None:
    t = Pair(matrix(64, 8))
    model = build(t, {"fc": alone("int4", True)})
    names = [a.name for a in the_node(model).attribute]
    assert sorted(names) == ["K", "N", "bits", "block_size"]
    assert {o.domain: o.version for o in model.opset_import} == {"": 17, "com.microsoft": 1}


def test_one_scale_of_a_column_goes_into_blocks_that_cost_least() -> None:
    node = the_node(build(Pair(matrix(384, 8)), {"fc": alone("int8", True, None, "minmax")}))
    assert next(a.i for a in node.attribute if a.name == "block_size") == 128


@pytest.mark.parametrize(
    ("model", "config"),
    [
        (matrix(64, 8, "Gemm", alpha=0.5), alone("int4", True)),
        (matrix(64, 8), alone("int4", True, 24, "minmax")),
        (matrix(64, 8), alone("int4", True, 8, "minmax")),
        (matrix(64, 8), alone("int16", True, None, "minmax")),
        (matrix(64, 8), alone("float8e4m3fn", True, None, "minmax")),
    ],
)
def test_what_has_no_such_form_stays_a_dequantized_weight(model: ModelProto, config: OpConfig) -> None:
    made = build(Pair(model), {"fc": config})
    assert (node_types(made)["MatMulNBits"], node_types(made)["DequantizeLinear"]) == (0, 1)


def test_zero_points_between_codes_have_this_form_alone() -> None:
    t = Pair(matrix(64, 8))
    config = alone("uint4", False, method="hqq", float_zero_point=True)
    found, before = run(build(t, {"fc": config}), t), run(t.prepared, t)
    assert np.abs(found - before).max() < 0.3 * np.abs(before).max()
    with pytest.raises(TrialError, match=r'constant "w".*matmulnbits'):
        build(t, {"fc": config}, "qdq")


def test_inputs_that_awq_scales_are_divided_in_front_of_the_node() -> None:
    t = Pair(matrix(64, 8))
    for feed in t.feeds:
        feed["x"] *= np.exp(np.random.default_rng(0).normal(size=64)).astype(np.float32)
    config = alone("uint4", False, 16, "awq")
    nbits, qdq = (build(t, {"fc": config}, form) for form in ("matmulnbits", "qdq"))
    assert node_types(nbits)["Mul"] == node_types(qdq)["Mul"] == 1
    found, expected = (run(model, t) for model in (nbits, qdq))
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_it_stands_beside_static_ops() -> None:
    t = Pair(mlp())
    static = OpConfig("static", Scheme("int8", True), Scheme("uint8", False))
    model = build(t, {"fc1": static, "fc2": alone("int4", True, 16)})
    onnx.checker.check_model(model)
    assert node_types(model)["MatMulNBits"] == 1
    assert count_quantized(model) >= 2
    found, before = run(model, t), run(t.prepared, t)
    assert np.abs(found - before).max() < 0.4 * np.abs(before).max()


def test_a_weight_that_two_ops_read_alike_is_there_once() -> None:
    g = Graph()
    w = g.weight("w", 32, 32)
    h = g.node("MatMul", "x", w, name="a")
    g.node("MatMul", h, w, name="b", output="y")
    t = Pair(g.model([value("x", ["N", 32])], [value("y", ["N", 32])]))
    config = alone("int4", True)
    model = build(t, {"a": config, "b": config})
    assert node_types(model)["MatMulNBits"] == 2
    assert len(model.graph.initializer) == 2


def test_every_matrix_of_an_attention_block_runs() -> None:
    t = Pair(attention(), T=4)
    config = alone("int4", True, 16)
    ops = {op.name: config for op in t.summary.ops if op.op_type in ("MatMul", "Gemm") and op.weight}
    model = build(t, ops)
    assert node_types(model)["MatMulNBits"] == len(ops) >= 2
    assert np.isfinite(run(model, t)).all()


def table(n_words: int, width: int) -> ModelProto:
    """embed: y (N, T, width) = rows ids (N, T) of a table, and a MatMul of it."""
    g = Graph(seed=4)
    h = g.node("Gather", g.weight("words", n_words, width), "ids", name="embed")
    g.node("MatMul", h, g.weight("w", width, 8), name="fc", output="y")
    ids = value("ids", ["N", "T"], onnx.TensorProto.INT64)
    return g.model([ids], [value("y", ["N", "T", 8])])


@pytest.mark.parametrize("dtype", ["uint4", "int4", "uint8", "int8"])
@pytest.mark.parametrize("method", ["minmax", "rtn"])
@pytest.mark.parametrize(("n_words", "width", "block"), [(30, 64, 32), (7, 48, 16)])
def test_rows_of_a_table_are_looked_up_as_codes(
    dtype: str, method: str, n_words: int, width: int, block: int
) -> None:
    model = table(n_words, width)
    t = Pair(model)
    t.feeds = [{"ids": np.arange(n_words).reshape(1, -1)}]
    config = alone(dtype, not dtype.startswith("u"), block, method)
    nodes, qdq = (build(t, {"embed": config}, form) for form in ("matmulnbits", "qdq"))
    assert "GatherBlockQuantized" in node_types(nodes)
    assert count_quantized(nodes) > 0
    np.testing.assert_allclose(run(nodes, t), run(qdq, t), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("dtype", "block"), [("uint4", 40), ("uint4", 24), ("uint2", 16)])
def test_other_tables_have_a_dequantizelinear(dtype: str, block: int) -> None:
    t = Pair(table(30, 64))
    t.feeds = [{"ids": np.arange(30).reshape(1, -1)}]
    made = build(t, {"embed": alone(dtype, False, block, "minmax")})
    assert "GatherBlockQuantized" not in node_types(made)
    assert "DequantizeLinear" in node_types(made)
