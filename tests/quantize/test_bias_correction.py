"""Oracles: means over real rows in plain NumPy; E[Y - Yq] = 0 for each channel after a correction."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto

from disttune.config.errors import TrialError
from disttune.config.schemes import FLOAT32, OpConfig, Scheme
from disttune.quantize.algorithms.objective import mean_error
from disttune.quantize.bias_correction import FastBiasCorrection
from disttune.quantize.bias_shift import shift_outputs
from disttune.quantize.builder.writer import Blueprint
from disttune.quantize.built_layers import FloatLayers, correctable_nodes, dequantized, unpacked
from disttune.quantize.digest import model_digest
from disttune.quantize.engine import EngineSettings
from disttune.quantize.fast import FastEngine
from disttune.quantize.graph import prepare
from disttune.quantize.sequential_correction import correct_sequentially
from disttune.quantize.statistics.layer_means import measure_layer_means
from disttune.space.candidate import Candidate
from tests.models import Graph, attention, depthwise_cnn, feeds, mlp, tiny_cnn, value
from tests.quantize.engines import array, node_of, node_types, outputs, static
from tests.quantize.passes.measured import tensors

TYPES = ("Conv", "Gemm", "MatMul")
WEIGHTS_ALONE = OpConfig("weight_only", static(per_channel=False).weight)
COARSE = OpConfig("weight_only", static("int4", per_channel=False).weight)


def engine(model: ModelProto, n: int = 8) -> FastEngine:
    return FastEngine(model, None, feeds(model, n), EngineSettings())


def candidate(model: ModelProto, config: OpConfig, **recipes: bool) -> Candidate:
    weights = correctable_nodes(model)
    return Candidate.of({n.name: config if n.name in weights else FLOAT32 for n in model.graph.node}, recipes)


def errors(model: ModelProto, built: ModelProto, samples: list[dict]) -> dict[str, np.ndarray]:
    """Mean error of each output of each linear op, while every op reads what it reads in its own model."""
    before = {n.name: n.output[0] for n in model.graph.node if n.op_type in TYPES}
    after = {n.name: n.output[0] for n in built.graph.node if n.op_type in TYPES}
    found = {}
    for op, name in before.items():
        gaps = []
        for feed in samples:
            a, b = tensors(model, [name], feed)[name], tensors(built, [after[op]], feed)[after[op]]
            axis = 1 if a.ndim == 4 else -1
            gaps.append(np.moveaxis(a - b, axis, -1).reshape(-1, a.shape[axis]))
        found[op] = np.concatenate(gaps).astype(np.float64).mean(axis=0)
    return found


def bias_step(built: ModelProto, op: str) -> np.ndarray | float:
    """What one int32 code of a bias is worth; 0 for a float bias."""
    bias = node_of(built, op).input[2]
    maker = next((n for n in built.graph.node if bias in n.output), None)
    return array(built, maker.input[1]) if maker else 0.0


def patches(x: np.ndarray, kernel: int, pads: list[int], stride: int) -> np.ndarray:
    """Rows (T, channels x kernel x kernel) by slicing, image after image."""
    x = np.pad(x, ((0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3])))
    n = [(side - kernel) // stride + 1 for side in x.shape[2:]]
    return np.array(
        [
            image[:, i * stride : i * stride + kernel, j * stride : j * stride + kernel].ravel()
            for image in x
            for i in range(n[0])
            for j in range(n[1])
        ]
    )


@settings(max_examples=15, deadline=None)
@given(
    pads=st.lists(st.integers(0, 2), min_size=4, max_size=4),
    stride=st.integers(1, 3),
    kernel=st.integers(1, 3),
)
def test_the_mean_input_of_a_conv_is_that_of_its_patches(pads, stride, kernel):
    g = Graph(1)
    weight = g.weight("w", 4, 3, kernel, kernel)
    g.node("Conv", "x", weight, name="conv", output="y", pads=pads, strides=[stride] * 2)
    model = g.model([value("x", ["N", 3, 7, 8])], [value("y", None)])
    samples = [{"x": np.random.default_rng(n).standard_normal((n, 3, 7, 8)).astype("f")} for n in (1, 3)]
    rows = np.concatenate([patches(s["x"], kernel, pads, stride) for s in samples])
    found = measure_layer_means(model, ["conv"], samples)["conv"]
    assert np.allclose(found.mean[0], rows.mean(axis=0), atol=1e-6)
    assert np.allclose(found.square[0], (rows**2).mean(axis=0), atol=1e-6)


def test_the_mean_input_of_groups_is_told_group_by_group():
    model = prepare(depthwise_cnn())
    means = measure_layer_means(model, ["depthwise"], feeds(model, 3))
    source = next(n.input[0] for n in model.graph.node if n.name == "depthwise")
    x = np.concatenate([tensors(model, [source], f)[source] for f in feeds(model, 3)])
    expected = [patches(x[:, [c]], 3, [1] * 4, 1).mean(axis=0) for c in range(4)]
    assert np.allclose(means["depthwise"].mean, expected, atol=1e-6)


def test_the_mean_input_of_rows_counts_every_row_once():
    g = Graph(1)
    g.node("MatMul", "x", g.weight("w", 6, 2), name="fc", output="y")
    model = g.model([value("x", ["N", "T", 6])], [value("y", None)])
    samples = [{"x": np.random.default_rng(n).standard_normal((2, n, 6)).astype("f")} for n in (1, 9)]
    rows = np.concatenate([s["x"].reshape(-1, 6) for s in samples])
    found = measure_layer_means(model, ["fc"], samples)["fc"]
    assert np.allclose(found.mean, rows.mean(axis=0)[None], atol=1e-6)
    assert np.allclose(found.square, (rows**2).mean(axis=0)[None], atol=1e-6)


def test_mean_error_is_the_mean_over_rows():
    random = np.random.default_rng(0)
    x, w, v = random.standard_normal((2, 50, 7)), *random.standard_normal((2, 2, 7, 3))
    expected = np.stack([(x[g] @ w[g] - x[g] @ v[g]).mean(axis=0) for g in range(2)])
    assert np.allclose(mean_error(w, v, x.mean(axis=1)), expected.ravel())


@pytest.mark.parametrize("make", [tiny_cnn, mlp, attention, depthwise_cnn])
@pytest.mark.parametrize("config", [WEIGHTS_ALONE, COARSE], ids=["int8", "int4"])
def test_one_op_with_a_quantized_weight_has_no_mean_error_after_the_fast_correction(make, config):
    model = prepare(make())
    samples = feeds(model, 8)
    for op in correctable_nodes(model):
        plain = engine(model).build(candidate(model, FLOAT32).with_configs({op: config}))
        quick = Candidate.of(
            {n.name: config if n.name == op else FLOAT32 for n in model.graph.node},
            {"fast_bias_correction": True},
        )
        corrected = engine(model).build(quick)
        assert model_digest(plain) != model_digest(corrected)
        name = {n.name: n for n in model.graph.node}[op].output[0]
        gap = _gap_behind(model, corrected, name, op, samples)
        assert np.abs(gap).max() <= 1e-5 * np.abs(tensors(model, [name], samples[0])[name]).max()
        assert np.abs(_gap_behind(model, plain, name, op, samples)).max() > np.abs(gap).max()


def _gap_behind(model: ModelProto, built: ModelProto, name: str, op: str, samples: list[dict]) -> np.ndarray:
    """Mean difference for each channel where the bias of an op has been added."""
    readers = [n for n in model.graph.node if name in n.input]
    is_matmul = next(n for n in model.graph.node if n.name == op).op_type == "MatMul"
    if is_matmul and len(readers) == 1 and readers[0].op_type == "Add":
        name = readers[0].output[0]
    gaps = []
    for feed in samples:
        a, b = (tensors(m, [name], feed)[name] for m in (model, built))
        axis = 1 if a.ndim == 4 else -1
        gaps.append(np.moveaxis(a.astype(np.float64) - b, axis, -1).reshape(-1, a.shape[axis]))
    return np.concatenate(gaps).mean(axis=0)


@pytest.mark.parametrize("make", [tiny_cnn, mlp, depthwise_cnn])
def test_after_the_sequential_correction_no_op_has_a_mean_error(make):
    model = prepare(make())
    samples = feeds(model, 8)
    config = static(per_channel=False)
    plain = engine(model).build(candidate(model, config))
    corrected = engine(model).build(candidate(model, config, bias_correction=True))
    before, after = errors(model, plain, samples), errors(model, corrected, samples)
    for op in before:
        assert (np.abs(after[op]) <= 0.51 * bias_step(corrected, op) + 1e-6).all()
    assert sum(np.abs(gap).max() for gap in before.values()) > 0.01


def test_a_matmul_without_add_gets_one_and_one_with_it_gets_none():
    model = prepare(attention())
    plain = node_types(engine(model).build(candidate(model, static())))
    corrected = node_types(engine(model).build(candidate(model, static(), fast_bias_correction=True)))
    matmuls = [n for n in correctable_nodes(model).values() if n.op_type == "MatMul"]
    bare = [
        n for n in matmuls if not any(r.op_type == "Add" and n.output[0] in r.input for r in model.graph.node)
    ]
    assert corrected["Add"] <= plain["Add"] + len(matmuls)
    assert corrected["Add"] >= plain["Add"] + len(bare)
    assert {t: n for t, n in corrected.items() if t != "Add"} == {
        t: n for t, n in plain.items() if t != "Add"
    }


@pytest.mark.parametrize("with_codes", [True, False])
def test_outputs_are_shifted_by_what_was_asked(with_codes):
    model = prepare(tiny_cnn())
    tried = engine(model)
    blueprint = tried.blueprint(candidate(model, static() if with_codes else WEIGHTS_ALONE))
    shift = np.linspace(-0.3, 0.4, 5)
    shifted, skipped = shift_outputs(blueprint, {"fc": shift, "nobody": shift})
    samples = feeds(model, 4)
    y = {n.name: n.output[0] for n in blueprint.skeleton.graph.node}["fc"]
    for feed in samples:
        a, b = (tensors(m.model(), [y], feed)[y] for m in (blueprint, shifted))
        assert np.allclose(b - a, shift, atol=1e-3)
    assert skipped == {"nobody": "the model has no such node"}


@pytest.mark.parametrize("recipe", ["weight_correction", "fast_bias_correction", "bias_correction"])
def test_a_corrected_model_keeps_the_memory_of_its_tensors(recipe):
    model = prepare(tiny_cnn())
    plain, corrected = (
        engine(model).blueprint(candidate(model, WEIGHTS_ALONE, **recipes))
        for recipes in ({}, {recipe: True})
    )
    assert corrected.owner is not None
    assert type(corrected.owner) is type(plain.owner)


def test_a_bias_that_two_ops_share_is_shifted_for_one():
    g = Graph(3)
    a = g.node("Gemm", "x", g.weight("w1", 6, 4), g.weight("b", 4), name="a")
    c = g.node("Gemm", "x", g.weight("w2", 6, 4), "b", name="c")
    g.node("Concat", a, c, output="y", axis=1)
    model = prepare(g.model([value("x", ["N", 6])], [value("y", None)]))
    for config in (WEIGHTS_ALONE, static()):
        blueprint = engine(model).blueprint(candidate(model, config))
        shifted, _ = shift_outputs(blueprint, {"a": np.ones(4)})
        before, after = (outputs(m.model(), feeds(model, 2), optimize=False)[0] for m in (blueprint, shifted))
        assert np.allclose((after - before).mean(axis=0), [1] * 4 + [0] * 4, atol=0.05)


def test_codes_per_group_mean_what_the_runtime_makes_of_them():
    g = Graph(3)
    random = np.random.default_rng(0)
    codes = g.constant("codes", random.integers(-8, 8, (10, 3), np.int8))
    scale = g.constant("scale", random.random((3, 3)).astype(np.float32))
    zero = g.constant("zero", random.integers(-3, 3, (3, 3), np.int8))
    h = g.node("DequantizeLinear", codes, scale, zero, axis=0, block_size=4)
    g.node("Add", h, "x", output="y")
    model = g.model([value("x", [10, 3])], [value("y", None)], opset=21)
    model.ir_version = 10
    expected = outputs(model, [{"x": np.zeros((10, 3), np.float32)}], optimize=False)[0]
    arrays = [array(model, name) for name in (codes, scale, zero)]
    assert np.allclose(dequantized(model.graph.node[0], *arrays), expected)


def test_ops_in_float_are_left_alone_and_it_is_said_why():
    model = prepare(tiny_cnn())
    means = measure_layer_means(model, list(correctable_nodes(model)), feeds(model, 4))
    only_fc = candidate(model, FLOAT32).with_configs({"fc": static()})
    done = FastBiasCorrection(FloatLayers(model), means).correct(engine(model).blueprint(only_fc))
    assert set(done.shifts) == {"fc"}
    assert done.skipped == dict.fromkeys(("conv1", "conv2"), "its weight is in float")


def test_the_sequential_correction_says_what_it_shifted():
    model = prepare(mlp())
    blueprint = engine(model).blueprint(candidate(model, static(per_channel=False)))
    done = correct_sequentially(blueprint, model, feeds(model, 8))
    assert set(done.shifts) == {"fc1", "fc2"}
    assert done.skipped == {}


def test_the_same_candidate_gives_the_same_corrected_model():
    model = prepare(tiny_cnn())
    tried = engine(model)
    for recipe in ("fast_bias_correction", "bias_correction"):
        wanted = candidate(model, static(per_channel=False), **{recipe: True})
        assert model_digest(tried.build(wanted)) == model_digest(engine(model).build(wanted))
        assert model_digest(tried.build(wanted)) == model_digest(tried.build(wanted))


def test_a_correction_without_samples_is_told():
    model = prepare(mlp())
    tried = FastEngine(model, None, [], EngineSettings())
    for recipe in ("fast_bias_correction", "bias_correction"):
        with pytest.raises(TrialError, match="needs calibration feeds, and there are none"):
            tried.build(candidate(model, WEIGHTS_ALONE, **{recipe: True}))


@pytest.mark.parametrize("dtype", ["int4", "uint4", "int8", "uint8"])
@pytest.mark.parametrize("group_size", [16, None])
def test_a_weight_of_matmulnbits_is_read_as_it_is_meant(dtype, group_size):
    g = Graph(3)
    g.node("MatMul", "x", g.weight("w", 40, 6), name="fc", output="y")
    model = prepare(g.model([value("x", ["N", 40])], [value("y", None)]))
    scheme = Scheme(
        dtype, dtype == "int4", "per_group" if group_size else "per_channel", group_size=group_size
    )
    built = packed_engine(model, n=4).build(candidate(model, OpConfig("weight_only", scheme)))
    packed_node = next(n for n in built.graph.node if n.op_type == "MatMulNBits")
    weight = unpacked(packed_node, *(array(built, name) for name in packed_node.input[1:] if name))
    identity = {"x": np.eye(40, dtype=np.float32)}
    assert np.allclose(outputs(built, [identity])[0], weight, atol=1e-6)


@pytest.mark.parametrize("recipe", ["fast_bias_correction", "bias_correction"])
@pytest.mark.parametrize("make", [mlp, attention])
def test_matmulnbits_is_corrected_too(make, recipe):
    model = prepare(make())
    samples = feeds(model, 8)
    op = next(iter(correctable_nodes(model)))
    coarse = OpConfig("weight_only", Scheme("int4", True, "per_group", group_size=16))
    configs = {n.name: coarse if n.name == op else FLOAT32 for n in model.graph.node}
    plain, corrected = (
        packed_engine(model).build(Candidate.of(configs, recipes)) for recipes in ({}, {recipe: True})
    )
    name = {n.name: n for n in model.graph.node}[op].output[0]
    before, after = (np.abs(_gap_behind(model, m, name, op, samples)).max() for m in (plain, corrected))
    assert node_types(corrected)["MatMulNBits"] == 1
    assert after <= 1e-4 < before


def packed_engine(model: ModelProto, n: int = 8) -> FastEngine:
    return FastEngine(model, None, feeds(model, n), EngineSettings(weight_only_format="matmulnbits"))


@pytest.mark.parametrize("recipe", ["fast_bias_correction", "bias_correction"])
def test_the_mean_output_of_a_transformer_comes_closer(recipe):
    model = prepare(attention())
    samples = feeds(model, 8)
    config = static("int4", per_channel=False)
    plain, corrected = (
        engine(model).build(candidate(model, config, **recipes)) for recipes in ({}, {recipe: True})
    )
    before, after = (np.abs(_gap_behind(model, m, "y", "down", samples)).max() for m in (plain, corrected))
    assert after < 0.7 * before


def normalized_mlp() -> ModelProto:
    """fc1, LayerNormalization, fc2: rows of any size count alike for fc2."""
    g = Graph(3)
    h = g.node("MatMul", "x", g.weight("w1", 6, 8), name="fc1")
    h = g.node("LayerNormalization", h, g.constant("ones", np.ones(8, np.float32)), name="norm", axis=-1)
    g.node("MatMul", h, g.weight("w2", 8, 4), name="fc2", output="y")
    return prepare(g.model([value("x", ["N", 6])], [value("y", None)]))


CLIPPED = OpConfig("static", static().weight, Scheme("uint8", False, method="percentile", parameter=80.0))


def test_a_level_whose_correction_takes_the_next_one_further_off_is_left_alone():
    model = normalized_mlp()
    samples = [
        {"x": np.abs(feed["x"]) * (50 if i % 5 == 4 else 1)} for i, feed in enumerate(feeds(model, 20))
    ]
    blueprint = FastEngine(model, None, samples, EngineSettings()).blueprint(candidate(model, CLIPPED))
    done = correct_sequentially(blueprint, model, samples)
    models = [
        b.model() for b in (blueprint, done.blueprint, _every_level_corrected(blueprint, model, samples))
    ]
    wanted = np.concatenate([outputs(model, [feed], optimize=False)[0] for feed in samples])
    found = [np.concatenate([outputs(m, [feed], optimize=False)[0] for feed in samples]) for m in models]
    off = [np.square(each - wanted).mean() for each in found]
    assert "taken back" in done.skipped["fc1"]
    assert off[1] <= off[0] < off[2]


def _every_level_corrected(blueprint: Blueprint, model: ModelProto, samples: list[dict]) -> Blueprint:
    """Oracle: without a gate, in plain NumPy."""
    for op in ("fc1", "fc2"):
        gap = errors(model, blueprint.model(), samples)[op]
        blueprint, _ = shift_outputs(blueprint, {op: gap})
    return blueprint


def test_the_sequential_correction_is_a_work_that_other_ranks_can_do_and_learn():
    model = prepare(tiny_cnn())
    wanted = candidate(model, static(per_channel=False), bias_correction=True)
    asked, other = engine(model), engine(model)
    (work,) = asked.missing(wanted)
    assert work.kind == "shifts"
    asked.learn(pickle.loads(pickle.dumps(work)), other.run(work))
    assert asked.missing(wanted) == ()
    assert model_digest(asked.build(wanted)) == model_digest(engine(model).build(wanted))


def test_a_correction_that_cannot_be_done_fails_its_candidate_with_the_reason():
    model = prepare(tiny_cnn())
    wanted = candidate(model, static(), bias_correction=True)
    tried = engine(model)
    tried.learn(tried.missing(wanted)[0], "fc: no memory")
    with pytest.raises(TrialError, match="fc: no memory"):
        tried.build(wanted)


def test_what_a_correction_is_built_on_is_learnt_before_it():
    model = prepare(tiny_cnn())
    weight = replace(static().weight, method="flip")
    wanted = candidate(model, replace(static(), weight=weight), bias_correction=True)
    tried = engine(model)
    layers = tried.missing(wanted)
    for work in layers:
        tried.learn(work, tried.run(work))
    (shifts,) = tried.missing(wanted)
    assert set(shifts.needs) == {work.key for work in layers}


@pytest.mark.parametrize("make", [tiny_cnn, mlp, attention])
def test_learned_biases_leave_no_mean_error_of_one_quantized_weight(make):
    model = prepare(make())
    samples = feeds(model, 8)
    weight = Scheme("int4", True, "per_channel", method="adaquant", options=(("bias", True),))
    config = OpConfig("weight_only", weight)
    for op in correctable_nodes(model):
        configs = {n.name: config if n.name == op else FLOAT32 for n in model.graph.node}
        built = engine(model).build(Candidate.of(configs))
        name = {n.name: n for n in model.graph.node}[op].output[0]
        gap = _gap_behind(model, built, name, op, samples)
        assert np.abs(gap).max() <= 1e-5 * np.abs(tensors(model, [name], samples[0])[name]).max()
        both = Candidate.of(configs, {"fast_bias_correction": True})
        gap = _gap_behind(model, engine(model).build(both), name, op, samples)
        assert np.abs(gap).max() <= 1e-5 * np.abs(tensors(model, [name], samples[0])[name]).max()
