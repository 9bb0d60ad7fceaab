"""Values and graphs that quantizers stumble over, in every format: valid models that run, close to float."""

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper

from disttune.config.errors import DataError, TrialError
from disttune.config.schemes import OpConfig, Scheme
from disttune.quantize.engine import EngineSettings
from disttune.quantize.fast import FastEngine
from tests.models import Graph, attention, value, with_branches
from tests.quantize.engines import dynamic, outputs, static
from tests.quantize.pairs import Pair

FORMATS = {
    "uint8 int8": static(),
    "uint8 int8 per tensor": static(per_channel=False),
    "int8 int8 symmetric": static("int8", "int8", symmetric=True),
    "uint8 uint8": static("uint8"),
    "uint16 int8": static("int8", "uint16"),
    "int16 int16": static("int16", "int16", symmetric=True),
    "uint8 int4": static("int4"),
    "mse": OpConfig(
        "static", Scheme("int8", True, "per_channel", method="mse"), Scheme("uint8", False, method="mse")
    ),
    "entropy": static(method="entropy"),
    "percentile": static(method="percentile", parameter=99.9),
    "powers of two": OpConfig(
        "static", Scheme("int8", True, method="pow2_mse"), Scheme("int8", True, method="pow2_nonoverflow")
    ),
    "dynamic": dynamic(),
    "int8 weights alone": OpConfig("weight_only", Scheme("int8", True, "per_channel")),
    "int4 groups alone": OpConfig("weight_only", Scheme("int4", True, "per_group", 16)),
    "float8 weights alone": OpConfig("weight_only", Scheme("float8e4m3fn", True)),
}


def line(weight: np.ndarray, bias: np.ndarray | None = None) -> ModelProto:
    """first (MatMul) - Add - fc (MatMul); x (N, K) to y (N, 4)."""
    g = Graph()
    h = g.node("MatMul", "x", g.constant("w", weight.astype(np.float32)), name="first")
    if bias is not None:
        h = g.node("Add", h, g.constant("b", bias.astype(np.float32)), name="add")
    g.node("MatMul", h, g.weight("v", weight.shape[1], 4), name="fc", output="y")
    return g.model([value("x", ["N", weight.shape[0]])], [value("y", ["N", 4])])


def data(array: np.ndarray) -> list[dict[str, np.ndarray]]:
    return [{"x": np.asarray(array, np.float32)}]


RANDOM = np.random.default_rng(0)
WEIGHT = RANDOM.standard_normal((32, 16))
DATA = RANDOM.standard_normal((8, 32))


CASES = {
    "constant data": (line(WEIGHT), data(np.full((8, 32), 0.7))),
    "data of zeros": (line(WEIGHT), data(np.zeros((8, 32)))),
    "constant weight": (line(np.full((32, 16), -0.3)), data(DATA)),
    "weight of zeros": (line(np.zeros((32, 16))), data(DATA)),
    "channel of zeros": (line(np.where(np.arange(16) == 3, 0.0, WEIGHT)), data(DATA)),
    "row of zeros": (line(np.where(np.arange(32)[:, None] < 16, 0.0, WEIGHT)), data(DATA)),
    "denormal weight": (line(WEIGHT * 1e-40), data(DATA)),
    "denormal channel": (line(np.where(np.arange(16) == 3, WEIGHT * 1e-40, WEIGHT)), data(DATA)),
    "denormal data": (line(WEIGHT), data(DATA * 1e-40)),
    "huge weight": (line(WEIGHT * 1e25), data(DATA)),
    "zero bias": (line(WEIGHT, np.zeros(16)), data(DATA)),
    "denormal bias": (line(WEIGHT, np.full(16, 1e-41)), data(DATA)),
}


@pytest.mark.parametrize("config", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_extreme_values_give_a_valid_model_close_to_float(case, config):
    model, feeds = case
    t = Pair(model, feeds)
    built = t.build_fast(t.everywhere(config, "MatMul", "Gemm"))
    onnx.checker.check_model(built)
    # onnxruntime computes with weights alone on 8-bit data, and zeros have the scale 1
    least = 1e-3 if config.approach == "weight_only" else 1e-30
    for found, exact in zip(outputs(built, feeds), outputs(t.prepared, feeds), strict=True):
        assert np.isfinite(found).all()
        assert np.abs(found - exact).max() <= 0.35 * np.abs(exact).max() + least


@pytest.mark.parametrize("config", FORMATS.values(), ids=FORMATS)
def test_an_empty_batch_goes_through_a_quantized_model(config):
    t = Pair(line(WEIGHT), [*data(DATA), *data(np.zeros((0, 32)))])
    built = t.build_fast(t.everywhere(config, "MatMul"))
    assert [found.shape for found in outputs(built, t.feeds)] == [(8, 4), (0, 4)]


@pytest.mark.parametrize(
    "method", ["minmax", "percentile", "entropy", "mse", "ema", "sqnr", "lp", "pow2_mse"]
)
def test_feeds_without_any_value_are_an_error_or_a_range_of_nothing(method):
    t = Pair(line(WEIGHT), data(np.zeros((0, 32))))
    parameter = {"percentile": 99.9}.get(method)
    built = t.build_fast({"first": static(method=method, parameter=parameter)})
    onnx.checker.check_model(built)


@pytest.mark.parametrize(
    "method", ["minmax", "percentile", "entropy", "mse", "ema", "sqnr", "lp", "pow2_mse"]
)
@pytest.mark.parametrize("extreme", [np.inf, -np.inf, 3e38])
def test_infinities_and_masks_leave_the_range_of_the_other_values(extreme, method):
    g = Graph()
    h = g.node("Add", "x", "mask", name="add")
    g.node("MatMul", h, g.weight("w", 32, 4), name="fc", output="y")
    model = g.model([value("x", ["N", 32]), value("mask", ["N", 32])], [value("y", ["N", 4])])
    mask = np.zeros((8, 32), np.float32)
    mask[0, 0] = extreme
    plain = {"x": DATA.astype(np.float32), "mask": np.zeros((8, 32), np.float32)}
    scheme = static(method=method, parameter={"percentile": 99.9}.get(method))
    scales = []
    for feeds in ([plain], [plain, {**plain, "mask": mask}]):
        built = Pair(model, feeds).build_fast({"fc": scheme})
        (name,) = (n.input[1] for n in built.graph.node if n.op_type == "QuantizeLinear" and "add" in n.name)
        scales.append(next(onnx.numpy_helper.to_array(t) for t in built.graph.initializer if t.name == name))
    assert scales[1] == pytest.approx(scales[0], rel=0.2)


@pytest.mark.parametrize(("n_feeds", "rows", "sample"), [(3, 4, 9), (5, 1, 2)])
def test_nan_in_an_activation_names_the_tensor_and_the_sample(n_feeds, rows, sample):
    g = Graph()
    h = g.node("Log", "x", name="log", output="logarithm")
    g.node("MatMul", h, g.weight("w", 32, 4), name="fc", output="y")
    model = g.model([value("x", ["N", 32])], [value("y", ["N", 4])])
    samples = np.abs(RANDOM.standard_normal((n_feeds * rows, 32))).astype(np.float32)
    samples[sample] = -1.0
    t = Pair(model, [{"x": part} for part in np.split(samples, n_feeds)])
    with pytest.raises(DataError, match=rf'"logarithm".*sample {sample}\b'):
        t.build_fast({"fc": static()})


@pytest.mark.parametrize(
    ("position", "bad", "config"),
    [
        ("w", np.inf, static()),
        ("b", np.inf, static()),
        ("w", np.nan, dynamic()),
        ("w", np.nan, OpConfig("weight_only", Scheme("int8", True))),
    ],
)
def test_a_weight_without_a_code_is_an_error_that_names_it(position, bad, config):
    g = Graph()
    weight, bias = WEIGHT.astype(np.float32), np.zeros(16, np.float32)
    (weight if position == "w" else bias)[3] = bad
    g.node("Gemm", "x", g.constant("w", weight), g.constant("b", bias), name="fc", output="y")
    t = Pair(g.model([value("x", ["N", 32])], [value("y", ["N", 16])]), data(DATA))
    with pytest.raises(TrialError, match=rf'constant "{position}": the (weight|bias) holds NaN or infinity'):
        t.build_fast({"fc": config})


def looped() -> ModelProto:
    """before (MatMul) - Loop of three MatMuls inside - after (MatMul); x (N, 4) to y (N, 4)."""
    g = Graph(3)
    before = g.node("MatMul", "x", g.weight("w", 4, 4), name="before", output="start")
    g.weight("inner", 4, 4, scale=0.3)
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["state", "inner"], ["next"], "in_loop"),
            helper.make_node("Identity", ["go"], ["going"], "going_on"),
        ],
        "body",
        [value("i", [], TensorProto.INT64), value("go", [], TensorProto.BOOL), value("state", None)],
        [value("going", [], TensorProto.BOOL), value("next", None)],
    )
    trips, go = g.constant("trips", np.int64(3)), g.constant("yes", np.bool_(True))
    h = g.node("Loop", trips, go, before, name="loop", body=body)
    g.node("MatMul", h, g.weight("w3", 4, 4), name="after", output="y")
    return g.model([value("x", ["N", 4])], [value("y", ["N", 4])])


@pytest.mark.parametrize("config", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("make", [looped, with_branches])
def test_graphs_inside_nodes_stay_in_float_and_the_others_are_quantized(make, config):
    t = Pair(make())
    built = t.build_fast(dict.fromkeys(("before", "after"), config))
    kind = "Loop" if make is looped else "If"
    (node,) = (n for n in built.graph.node if n.op_type == kind)
    inside = [inner.op_type for a in node.attribute if a.HasField("g") for inner in a.g.node]
    assert "MatMul" in inside
    assert not {"QuantizeLinear", "DequantizeLinear"} & set(inside)
    for found, exact in zip(outputs(built, t.feeds), outputs(t.prepared, t.feeds), strict=True):
        assert np.abs(found - exact).max() <= 0.35 * np.abs(exact).max()


@pytest.mark.parametrize("config", FORMATS.values(), ids=FORMATS)
def test_a_weight_of_two_ops_in_two_ways_is_right_for_each(config):
    g = Graph()
    h = g.node("MatMul", "x", g.weight("w", 16, 16), name="first")
    g.node("MatMul", h, "w", name="second", output="y")
    t = Pair(g.model([value("x", ["N", 16])], [value("y", ["N", 16])]))
    for first, second in ((config, static()), (static(), config)):
        built = t.build_fast({"first": first, "second": second})
        onnx.checker.check_model(built)
        for found, exact in zip(outputs(built, t.feeds), outputs(t.prepared, t.feeds), strict=True):
            assert np.abs(found - exact).max() <= 0.35 * np.abs(exact).max()


def test_other_sizes_than_those_of_the_calibration_run():
    """Dynamic axes: calibrated with 3 tokens of 2 samples, run with 7 of 5."""
    t = Pair(attention(), N=2, T=3)
    built = t.build_fast(t.everywhere(static()))
    feeds = [{"x": np.random.default_rng(4).standard_normal((5, 7, 8)).astype(np.float32)}]
    for found, exact in zip(outputs(built, feeds), outputs(t.prepared, feeds), strict=True):
        assert found.shape == exact.shape
        assert np.abs(found - exact).mean() <= 0.2 * np.abs(exact).max()


def test_an_engine_without_feeds_says_what_it_lacks():
    t = Pair(line(WEIGHT), data(DATA))
    engine = FastEngine(t.prepared, t.summary, [], EngineSettings())
    with pytest.raises(TrialError, match="static quantization needs calibration feeds, and there are none"):
        engine.build(t.candidate({"fc": static()}))
