"""Oracles: the float outputs; the closed forms of Nagel et al. 2019; the float accuracy of the demo."""

import zipfile
from importlib.resources import files
from io import BytesIO

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, numpy_helper

from disttune.quantize.digest import serialize
from disttune.quantize.engine import EngineSettings, find_engine
from disttune.quantize.equivalence import largest_difference
from disttune.quantize.graph import prepare
from disttune.quantize.passes.cross_layer_equalization import FOR_ONE_SCALE, GATE
from disttune.quantize.summary import summarize
from disttune.quantize.variant import variant_recipes
from disttune.space.candidate import Candidate
from tests.models import Graph, value
from tests.quantize.engines import static
from tests.quantize.passes.measured import applied, constant, node, types

CLE = "cross_layer_equalization"
UNEVEN = np.array([0.02, 1.0, 5.0, 0.3], np.float32)


def images(n: int = 3, *, channels: int = 2, side: int = 8, seed: int = 0) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(seed)
    return [{"x": random.standard_normal((2, channels, side, side)).astype(np.float32)} for _ in range(n)]


def uneven(g: Graph, name: str, *shape: int) -> str:
    """A weight whose outputs differ in size, channel by channel."""
    factor = UNEVEN[np.arange(shape[0]) % 4].reshape(-1, *[1] * (len(shape) - 1))
    return g.constant(name, (factor * g.random.standard_normal(shape)).astype(np.float32))


def conv_pair(activation: str = "Relu", *slopes: str, **attributes: object) -> ModelProto:
    g = Graph(1)
    h = g.node("Conv", "x", uneven(g, "w1", 4, 2, 3, 3), g.weight("b1", 4), name="first", pads=[1] * 4)
    for name in slopes:
        g.constant(name, np.array([0.1, -0.2, 0.3, 1.5], np.float32).reshape(4, 1, 1))
    h = g.node(activation, h, *slopes, name="between", **attributes)
    g.node("Conv", h, g.weight("w2", 3, 4, 3, 3), name="second", output="y", pads=[1] * 4)
    return g.model([value("x", ["N", 2, 8, 8])], [value("y", None)])


def clipped(low: float | None, high: float, scale: float = 1.0) -> ModelProto:
    g = Graph(1)
    h = g.node("Conv", "x", uneven(g, "w1", 4, 2, 3, 3), name="first")
    bounds = ["" if low is None else g.constant("low", np.float32(low)), g.constant("high", np.float32(high))]
    h = g.node("Clip", h, *bounds, name="clip")
    g.node("Conv", h, g.weight("w2", 3, 4, 1, 1, scale=scale), name="second", output="y")
    return g.model([value("x", ["N", 2, 8, 8])], [value("y", None)])


def depthwise_chain() -> ModelProto:
    g = Graph(2)
    h = g.node("Conv", "x", uneven(g, "w1", 4, 2, 1, 1), g.weight("b1", 4), name="first")
    h = g.node("Relu", h, name="relu1")
    h = g.node("Conv", h, g.weight("w2", 4, 1, 3, 3), g.weight("b2", 4), name="middle", group=4)
    h = g.node("Relu", h, name="relu2")
    g.node("Conv", h, g.weight("w3", 5, 4, 1, 1), name="last", output="y")
    return g.model([value("x", ["N", 2, 8, 8])], [value("y", None)])


def per_output(weight: np.ndarray) -> np.ndarray:
    return np.abs(weight).max(axis=tuple(range(1, weight.ndim)))


def per_input(weight: np.ndarray) -> np.ndarray:
    return np.abs(weight).max(axis=(0, *range(2, weight.ndim)))


@pytest.mark.parametrize(
    "model",
    [
        conv_pair(),
        conv_pair("LeakyRelu", alpha=0.3),
        conv_pair("PRelu", "slope"),
        conv_pair("Identity"),
        conv_pair("AveragePool", kernel_shape=[2, 2], pads=[1, 1, 0, 0]),
        conv_pair("MaxPool", kernel_shape=[2, 2]),
    ],
    ids=lambda model: model.graph.node[1].op_type,
)
def test_a_pair_gets_weights_of_equal_size_and_keeps_its_outputs(model):
    result = applied(CLE, model)
    r1, r2 = per_output(constant(model, "first")), per_input(constant(model, "second"))
    assert largest_difference(model, result.model, images()) <= 1e-5
    assert np.allclose(per_output(constant(result.model, "first")), np.sqrt(r1 * r2), rtol=1e-4)
    assert np.allclose(per_input(constant(result.model, "second")), np.sqrt(r1 * r2), rtol=1e-4)


def test_a_depthwise_triple_gets_the_third_root_of_the_product():
    model = depthwise_chain()
    result = applied(CLE, model)
    sizes = [per_output(constant(model, "first")), per_output(constant(model, "middle"))]
    expected = np.cbrt(sizes[0] * sizes[1] * per_input(constant(model, "last")))
    assert largest_difference(model, result.model, images()) <= 1e-5
    for name in ("first", "middle"):
        assert np.allclose(per_output(constant(result.model, name)), expected, rtol=1e-4)
    assert np.allclose(per_input(constant(result.model, "last")), expected, rtol=1e-4)


@pytest.mark.parametrize("make", [conv_pair, depthwise_chain])
def test_a_second_application_changes_next_to_nothing(make):
    once = applied(CLE, make()).model
    twice = applied(CLE, once).model
    for name in ("first", "last" if make is depthwise_chain else "second"):
        assert np.allclose(constant(twice, name), constant(once, name), rtol=2e-3)


def test_the_model_given_is_not_changed():
    model = depthwise_chain()
    applied(CLE, model)
    assert serialize(model) == serialize(depthwise_chain())


def test_what_was_changed_and_what_could_not_be_is_said():
    result = applied(CLE, depthwise_chain())
    assert [line.split(":")[0] for line in result.changed] == ["first and middle", "middle and last"]
    assert all("equalized, scales" in line for line in result.changed)
    assert result.skipped == {"last": '"y" is an output of the graph, or read by a graph inside a node'}


def test_rows_take_part_with_all_layouts_of_their_weights():
    g = Graph(4)
    h = g.node("MatMul", "x", g.weight("w1", 6, 4), name="a")
    h = g.node("Relu", g.node("Add", h, g.weight("b1", 4)))
    h = g.node("Gemm", h, g.weight("w2", 5, 4), g.weight("b2", 1, 5), name="b", transB=1, alpha=0.5, beta=2.0)
    h = g.node("Gemm", g.node("Relu", h), g.weight("w3", 5, 7), name="c")
    g.node("MatMul", h, g.weight("w4", 7, 2), name="d", output="y")
    model = g.model([value("x", ["N", 6])], [value("y", None)])
    result = applied(CLE, model)
    rows = [{"x": np.random.default_rng(0).standard_normal((9, 6)).astype(np.float32)}]
    assert len(result.changed) == 3
    assert largest_difference(model, result.model, rows) <= 1e-5
    assert np.abs(np.log(np.abs(constant(result.model, "c")).max(axis=0))).max() > 0
    assert np.allclose(
        np.abs(constant(result.model, "c")).max(axis=0),
        np.abs(constant(result.model, "d")).max(axis=1),
        rtol=2e-3,
    )


def test_an_image_is_followed_through_flatten_into_rows():
    g = Graph(5)
    h = g.node("ConvTranspose", "x", g.weight("w1", 2, 4, 2, 2), g.weight("b1", 4), name="up")
    h = g.node("Flatten", g.node("Relu", h))
    g.node("Gemm", h, g.weight("w2", 4 * 81, 3), name="head", output="y")
    model = g.model([value("x", ["N", 2, 8, 8])], [value("y", None)])
    result = applied(CLE, model)
    assert len(result.changed) == 1
    assert largest_difference(model, result.model, images()) <= 1e-5


def test_several_readers_of_one_tensor_are_scaled_together():
    g = Graph(6)
    h = g.node("Relu", g.node("Conv", "x", uneven(g, "w1", 4, 2, 3, 3), name="first"))
    a = g.node("Conv", h, g.weight("w2", 3, 4, 1, 1), name="left")
    g.node("Add", a, g.node("Conv", h, g.weight("w3", 3, 4, 1, 1), name="right"), output="y")
    model = g.model([value("x", ["N", 2, 8, 8])], [value("y", None)])
    result = applied(CLE, model)
    assert [line.split(":")[0] for line in result.changed] == ["first and left, right"]
    assert largest_difference(model, result.model, images()) <= 1e-5


def test_a_weight_of_two_ops_becomes_two_weights():
    g = Graph(7)
    h = g.node("Conv", "x", g.weight("w", 2, 2, 1, 1), g.weight("b", 2), name="first")
    g.node("Conv", g.node("Relu", h), "w", "b", name="second", output="y")
    model = g.model([value("x", ["N", 2, 8, 8])], [value("y", None)])
    result = applied(CLE, model)
    assert len(result.changed) == 1
    assert largest_difference(model, result.model, images()) <= 1e-5


@pytest.mark.parametrize("kind", ["output", "sigmoid", "residual", "grouped outputs"])
def test_a_link_that_someone_else_reads_is_left_alone(kind):
    g = Graph(8)
    h = g.node("Conv", "x", g.weight("w1", 2, 2, 1, 1), name="first", output="h")
    if kind == "sigmoid":
        h = g.node("Sigmoid", h)
    y = g.node("Conv", h, g.weight("w2", 2, 2, 1, 1), name="second")
    y = g.node("Add", y, h) if kind == "residual" else y
    g.node("Relu", y, output="y")
    outputs = [value("y", None)] + ([value("h", None)] if kind in ("output", "grouped outputs") else [])
    model = g.model([value("x", ["N", 2, 8, 8])], outputs)
    result = applied(CLE, model)
    assert result.changed == ()
    assert "first" in result.skipped
    assert result.model is model


def test_dead_channels_stay_as_they_are():
    model = conv_pair()
    weight = constant(model, "first").copy()
    weight[1] = 0
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(weight, "w1"))
    result = applied(CLE, model)
    assert np.array_equal(constant(result.model, "second")[:, 1], constant(model, "second")[:, 1])
    assert largest_difference(model, result.model, images()) <= 1e-5


def test_no_channel_is_changed_by_more_than_64():
    model = conv_pair()
    weight = constant(model, "first").copy()
    weight[2] *= 1e9
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(weight, "w1"))
    result = applied(CLE, model)
    factor = constant(model, "first") / constant(result.model, "first")
    assert np.abs(np.log(factor)).max() == pytest.approx(np.log(64))


def test_a_clip_that_no_sample_reaches_becomes_relu():
    model = clipped(0.0, 1e6)
    result = applied(CLE, model, images())
    assert types(result.model) == ["Conv", "Relu", "Conv"]
    assert "clip became Relu" in result.changed[0]
    assert largest_difference(model, result.model, images()) <= 1e-5


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.0, 6.0, ["Max", "Min"]), (-1.0, 2.0, ["Max", "Min"]), (None, 1.0, ["Min"])],
)
def test_a_clip_that_is_reached_gets_bounds_for_each_channel(low, high, expected):
    model = clipped(low, high)
    result = applied(CLE, model, images())
    assert types(result.model) == ["Conv", *expected, "Conv"]
    assert node(result.model, "clip").op_type == "Min"
    assert largest_difference(model, result.model, images(seed=9)) <= 1e-5


def test_absorbing_takes_what_all_samples_share_out_of_the_tensor_between():
    g = Graph(9)
    bias = g.constant("b1", np.array([20.0, 0.0, -20.0, 25.0], np.float32))
    h = g.node("Conv", "x", g.weight("w1", 4, 2, 3, 3), bias, name="first")
    h = g.node("Relu", h, name="relu")
    g.node("Conv", h, g.weight("w2", 3, 4, 3, 3), name="second", output="y")
    model = g.model([value("x", ["N", 2, 8, 8])], [value("y", None)])
    result = applied(CLE, model, images(), cross_layer_equalization_absorb_bias=True)
    assert "bias of 2 of 4 channels absorbed" in result.changed[0]
    assert largest_difference(model, result.model, images()) <= 1e-5
    plain = applied(CLE, model)
    before, after = (constant(m, "first", 2) for m in (plain.model, result.model))
    assert (after[[0, 3]] < before[[0, 3]] / 2).all()
    assert np.array_equal(after[[1, 2]], before[[1, 2]])


def test_nothing_is_absorbed_where_padding_would_not_shift():
    model = conv_pair()
    with_bias = applied(CLE, model, images(), cross_layer_equalization_absorb_bias=True)
    assert serialize(with_bias.model) == serialize(applied(CLE, model).model)


def test_between_rows_without_activation_the_middle_is_absorbed():
    g = Graph(10)
    h = g.node("Gemm", "x", g.weight("w1", 6, 4), g.constant("b1", np.full(4, 30, np.float32)), name="a")
    g.node("MatMul", h, g.weight("w2", 4, 2), name="b", output="y")
    model = g.model([value("x", ["N", 6])], [value("y", None)])
    rows = [{"x": np.random.default_rng(0).standard_normal((9, 6)).astype(np.float32)}]
    result = applied(CLE, model, rows, cross_layer_equalization_absorb_bias=True)
    assert types(result.model) == ["Gemm", "MatMul", "Add"]
    assert largest_difference(model, result.model, rows) <= 1e-5
    assert np.abs(constant(result.model, "a", 2)).max() < 5


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_random_chains_keep_their_outputs(data):
    g = Graph(data.draw(st.integers(0, 99)))
    h, n = "x", 2
    n_ops = data.draw(st.integers(2, 5))
    for i in range(n_ops):
        kind = data.draw(st.sampled_from(["conv", "depthwise", "transposed", "grouped"]))
        m = n if kind == "depthwise" else 2 * data.draw(st.integers(1, 3))
        n_groups = {"depthwise": n, "grouped": 2}.get(kind, 1)
        bias = [g.weight(f"b{i}", m)] if data.draw(st.booleans()) else []
        if kind == "transposed":
            h = g.node("ConvTranspose", h, g.weight(f"w{i}", n, m, 2, 2), *bias, name=f"op{i}")
        else:
            pads = [data.draw(st.integers(0, 1))] * 4
            weight = uneven(g, f"w{i}", m, n // n_groups, 2, 2)
            h = g.node("Conv", h, weight, *bias, name=f"op{i}", group=n_groups, pads=pads)
        activation = data.draw(st.sampled_from(["Relu", "LeakyRelu", "Clip", "Abs", "none"]))
        if activation == "Clip" and i < n_ops - 1:
            h = g.node("Clip", h, g.constant(f"l{i}", np.float32(0)), g.constant(f"h{i}", np.float32(5)))
        elif activation not in ("Clip", "none"):
            h = g.node(activation, h)
        n = m
    g.node("Identity", h, output="y")
    model = g.model([value("x", ["N", 2, 8, 8])], [value("y", None)])
    absorbs = data.draw(st.booleans())
    result = applied(CLE, model, images(), cross_layer_equalization_absorb_bias=absorbs)
    # what a Clip leaves can be far smaller than what went in: rounding shows
    assert largest_difference(model, result.model, images()) <= 1e-4


def test_it_restores_the_demo_where_one_scale_for_each_weight_is_not_enough():
    folder = files("disttune.examples") / "digits_cnn"
    prepared = prepare(onnx.load_from_string((folder / "model.onnx").read_bytes()))
    calibration = _arrays((folder / "calibration.npz").read_bytes())
    evaluation = _arrays((folder / "evaluation.npz").read_bytes())
    result = applied(CLE, prepared)
    right = {}
    for name, model in (("plain", prepared), ("equalized", result.model)):
        engine = find_engine("fast")(model, summarize(model, model), [calibration], EngineSettings())
        ops = {n.name: static(per_channel=False) for n in model.graph.node if n.op_type in ("Conv", "Gemm")}
        right[name] = _n_right(engine.build(Candidate.of(ops)), evaluation)
    in_float = _n_right(prepared, evaluation)
    assert right["plain"] < 0.6 * in_float
    assert right["equalized"] >= 0.99 * in_float


def _arrays(data: bytes) -> dict[str, np.ndarray]:
    assert zipfile.is_zipfile(BytesIO(data))
    return dict(np.load(BytesIO(data), allow_pickle=False))


def _n_right(model: ModelProto, data: dict[str, np.ndarray]) -> int:
    session = onnxruntime.InferenceSession(serialize(model), providers=["CPUExecutionProvider"])
    logits = session.run(None, {"image": data["image"]})[0]
    return int((logits.argmax(axis=1) == data["labels"]).sum())


def rows_of(n: int = 64, seed: int = 0) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(seed)
    return [{"x": random.standard_normal((n, 6)).astype(np.float32)} for _ in range(2)]


def two_layers(first: np.ndarray, second: np.ndarray) -> ModelProto:
    """Channels of size `first`, read by weights of size `second`."""
    g = Graph(4)
    w1 = g.random.standard_normal((6, 8)).astype(np.float32) * first
    w2 = g.random.standard_normal((8, 3)).astype(np.float32) * second[:, None]
    h = g.node("Gemm", "x", g.constant("w1", w1.astype(np.float32)), name="first")
    h = g.node("Relu", h, name="relu")
    g.node("Gemm", h, g.constant("w2", w2.astype(np.float32)), name="second", output="y")
    return g.model([value("x", ["N", 6])], [value("y", None)])


def rounding_noise(model: ModelProto, samples: list[dict[str, np.ndarray]], per_tensor: bool) -> float:
    """Oracle: mean squared error over power of the outputs, int8 weights and uint8 data in NumPy."""
    x = np.concatenate([feed["x"] for feed in samples]).astype(np.float64)

    def weight(name: str) -> np.ndarray:
        w = constant(model, name).astype(np.float64)
        step = np.abs(w).max() / 127 if per_tensor else np.abs(w).max(axis=0) / 127
        return np.rint(w / step) * step

    def biased(name: str, rows: np.ndarray) -> np.ndarray:
        return rows + (constant(model, name, 2) if len(node(model, name).input) > 2 else 0)

    hidden = np.maximum(biased("first", x @ weight("first")), 0)
    step = hidden.max() / 255
    found = biased("second", np.rint(hidden / step) * step @ weight("second"))
    exact = np.maximum(biased("first", x @ constant(model, "first")), 0) @ constant(model, "second")
    return float(np.square(found - biased("second", exact)).sum() / np.square(exact).sum())


SPREAD = np.geomspace(0.02, 5, 8)


def idle_weights() -> ModelProto:
    """Every other channel has a large weight for an input that is all but zero."""
    model = two_layers(np.ones(8), np.ones(8))
    weight = next(t for t in model.graph.initializer if t.name == "w1")
    changed = numpy_helper.to_array(weight).copy()
    changed[0, ::2] = 60
    weight.CopyFrom(numpy_helper.from_array(changed, "w1"))
    return model


@pytest.mark.parametrize("per_tensor", [True, False])
@pytest.mark.parametrize(
    ("model", "gains"),
    [(two_layers(SPREAD, 1 / SPREAD), True), (idle_weights(), False)],
    ids=["uneven channels", "idle weights"],
)
def test_the_gate_decides_as_the_measured_noise_does(model: ModelProto, gains: bool, per_tensor: bool):
    model, samples = prepare(model), rows_of()
    for feed in samples:
        feed["x"][:, 0] *= 1e-3
    always = applied(CLE, model, samples).model
    before, after = (rounding_noise(m, samples, per_tensor) for m in (model, always))
    assert (after < before) == gains or per_tensor, "no case of this kind"
    one_scale = {FOR_ONE_SCALE: True} if per_tensor else {}
    gated = applied(CLE, model, samples, **{GATE: True, **one_scale})
    assert (gated.model is not model) == (after < before)
    if gated.model is model:
        assert "would lose" in gated.skipped["first and second"]
    assert largest_difference(model, gated.model, samples) < 1e-5


def test_the_gate_looks_at_how_many_scales_the_weights_of_a_candidate_have():
    model = prepare(two_layers(SPREAD, np.ones(8)))
    recipes = {CLE: True, GATE: True}
    for per_channel in (True, False):
        configs = {n.name: static(per_channel=per_channel) for n in model.graph.node}
        hints = dict(variant_recipes(Candidate.of(configs, recipes)))
        assert hints.get(FOR_ONE_SCALE, False) is not per_channel
