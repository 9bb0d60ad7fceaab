"""Oracles: the float outputs; equation 4 of Xiao et al. 2022; quantizing real activations alpha by alpha."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto

from disttune.quantize.digest import serialize
from disttune.quantize.editing import GraphEditor
from disttune.quantize.equivalence import largest_difference
from disttune.quantize.linear import Linear, read_linear
from disttune.quantize.passes.smoothing_scales import ALPHAS, best_alpha, smoothing_scale
from disttune.quantize.statistics.channels import ChannelStatistics
from tests.models import Graph, value
from tests.quantize.passes.measured import applied, constant, node, types

OUTLIERS = np.array([1, 40, 1, 1, 0.1, 8], np.float32)


def rows(n: int = 3, width: int = 6, seed: int = 0) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(seed)
    return [{"x": random.standard_normal((2, 5, width)).astype(np.float32) * OUTLIERS} for _ in range(n)]


def model(g: Graph, output: str) -> ModelProto:
    g.node("Identity", output, output="y")
    return g.model([value("x", ["N", 5, 6])], [value("y", None)])


def matmul(g: Graph, x: str, name: str, n: int = 4, k: int = 6) -> str:
    return g.node("MatMul", x, g.weight(f"{name}_w", k, n), name=name)


def alone() -> ModelProto:
    g = Graph(1)
    return model(g, matmul(g, "x", "fc"))


def layer_norm(g: Graph) -> str:
    return g.node("LayerNormalization", "x", g.weight("scale", 6), g.weight("shift", 6), name="norm")


def norm_without_bias(g: Graph) -> str:
    return g.node("LayerNormalization", "x", g.weight("scale", 6), name="norm")


def plain_rms_norm(g: Graph) -> str:
    """As exporters write it."""
    mean = g.node("ReduceMean", g.node("Mul", "x", "x"), axes=[-1])
    root = g.node("Sqrt", g.node("Add", mean, g.constant("epsilon", np.float32(1e-5))))
    return g.node("Mul", g.node("Div", "x", root), g.weight("gamma", 6), name="gamma")


def plain_layer_norm(g: Graph) -> str:
    return g.node("Add", plain_rms_norm(g), g.weight("beta", 6), name="beta")


def with_bias(g: Graph) -> str:
    return g.node("Add", matmul(g, "x", "first", 6), g.weight("bias", 6), name="add")


def gated(g: Graph) -> str:
    gate = g.node("Sigmoid", matmul(g, "x", "gate", 6))
    return g.node("Mul", gate, matmul(g, "x", "up", 6), name="gated")


def half(g: Graph) -> str:
    return g.node("Mul", g.node("Tanh", "x"), g.constant("half", np.float32(0.5)), name="half")


@pytest.mark.parametrize(
    ("make", "place"),
    [
        (layer_norm, "norm"),
        (norm_without_bias, "norm"),
        (plain_rms_norm, "gamma"),
        (plain_layer_norm, "gamma"),
        (with_bias, "first"),
        (lambda g: g.node("Relu", with_bias(g)), "first"),
        (lambda g: matmul(g, "x", "first", 6), "first"),
        (gated, "up"),
        (half, "half"),
    ],
)
def test_the_scale_is_folded_into_the_op_before(make, place):
    g = Graph(2)
    float_model = model(g, matmul(g, make(g), "fc"))
    result = applied("smooth_quant", float_model, rows())
    assert f"folded into {place}" in result.changed[-1]
    assert sum(n.endswith("_smoothed_Mul") for n in (n.name for n in result.model.graph.node)) == sum(
        "by Mul" in line for line in result.changed
    )
    assert largest_difference(float_model, result.model, rows(seed=4)) <= 1e-5


@pytest.mark.parametrize(
    "make",
    [
        lambda g: "x",
        lambda g: g.node("Softmax", "x"),
        lambda g: g.node("Sigmoid", "x"),
        lambda g: g.node("Reshape", g.node("Relu", "x"), g.constant("s", np.array([-1, 6]))),
    ],
)
def test_a_mul_is_put_before_where_nothing_takes_the_scale(make):
    g = Graph(2)
    float_model = model(g, matmul(g, make(g), "fc"))
    result = applied("smooth_quant", float_model, rows())
    assert "by Mul" in result.changed[0]
    assert types(result.model).count("Mul") == 1
    assert largest_difference(float_model, result.model, rows(seed=4)) <= 1e-5


def test_a_tensor_that_others_read_keeps_its_values():
    g = Graph(3)
    h = layer_norm(g)
    float_model = model(g, g.node("Add", matmul(g, h, "fc", 6), h))
    result = applied("smooth_quant", float_model, rows())
    assert "by Mul" in result.changed[0]
    assert np.array_equal(constant(result.model, "norm"), constant(float_model, "norm"))
    assert largest_difference(float_model, result.model, rows(seed=4)) <= 1e-5


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 1.0])
def test_the_scale_is_that_of_the_paper_up_to_a_common_factor(alpha):
    float_model = alone()
    result = applied("smooth_quant", float_model, rows(), smooth_quant_alpha=alpha)
    x, w = np.concatenate([f["x"] for f in rows()]), constant(float_model, "fc")
    paper = [np.abs(x[..., k]).max() ** alpha / np.abs(w[k]).max() ** (1 - alpha) for k in range(6)]
    found = (constant(result.model, "fc") / w)[:, 0]
    assert np.allclose(found, paper / np.exp(np.log(paper).mean()), rtol=1e-5)
    assert result.changed[0].startswith(f"fc: alpha {alpha:g}, scales ")


def test_what_reads_the_same_tensor_shares_one_scale():
    g = Graph(4)
    names = ("query", "key", "value")
    float_model = model(g, g.node("Sum", *(matmul(g, "x", n) for n in names)))
    result = applied("smooth_quant", float_model, rows())
    factors = [(constant(result.model, n) / constant(float_model, n))[:, 0] for n in names]
    assert len(result.changed) == 1
    assert types(result.model).count("Mul") == 1
    assert np.allclose(factors[0], factors[1], rtol=1e-5)
    weight_max = np.max([np.abs(constant(float_model, n)).max(axis=1) for n in names], axis=0)
    absmax = np.abs(np.concatenate([f["x"] for f in rows()])).max(axis=(0, 1))
    assert np.allclose(factors[0], smoothing_scale(absmax, weight_max, 0.5), rtol=1e-5)


def test_scales_per_op_give_each_reader_its_own():
    g = Graph(4)
    float_model = model(g, g.node("Sum", matmul(g, "x", "query"), matmul(g, "x", "key")))
    result = applied("smooth_quant", float_model, rows(), smooth_quant_scales_per_op=True)
    assert types(result.model).count("Mul") == 2
    assert largest_difference(float_model, result.model, rows(seed=4)) <= 1e-5


def test_a_weight_that_two_ops_share_is_scaled_once_for_each():
    g = Graph(5)
    a = g.node("MatMul", "x", g.weight("w", 6, 6), name="a")
    float_model = model(g, g.node("MatMul", a, "w", name="b"))
    result = applied("smooth_quant", float_model, rows())
    assert len(result.changed) == 2
    assert largest_difference(float_model, result.model, rows(seed=4)) <= 1e-5


def test_a_transposed_gemm_is_scaled_along_its_inputs():
    g = Graph(6)
    h = g.node("Gemm", "x", g.weight("w1", 6, 6), g.weight("b1", 6), name="a", transB=1, alpha=2.0)
    g.node("Gemm", g.node("Relu", h), g.weight("w2", 3, 6), name="b", transB=1, output="y")
    float_model = g.model([value("x", ["N", 6])], [value("y", None)])
    feeds = [{"x": feed["x"][0]} for feed in rows()]
    result = applied("smooth_quant", float_model, feeds)
    assert [line.rsplit(", ", 1)[1] for line in result.changed] == ["by Mul x_smoothed_Mul", "folded into a"]
    assert largest_difference(float_model, result.model, feeds) <= 1e-5


@pytest.mark.parametrize("n_groups", [1, 2, 4])
def test_conv_takes_part_on_request_in_all_groupings(n_groups):
    g = Graph(7)
    h = g.node("Conv", "x", g.weight("w1", 4, 2, 1, 1), name="first")
    h = g.node(
        "Conv", g.node("Relu", h), g.weight("w2", 4, 4 // n_groups, 3, 3), name="second", group=n_groups
    )
    g.node("Identity", h, output="y")
    float_model = g.model([value("x", ["N", 2, 6, 6])], [value("y", None)])
    feeds = [{"x": np.random.default_rng(1).standard_normal((2, 2, 6, 6)).astype(np.float32)}]
    result = applied("smooth_quant", float_model, feeds, smooth_quant_conv=True)
    assert "folded into first" in result.changed[1]
    assert largest_difference(float_model, result.model, feeds) <= 1e-5
    assert applied("smooth_quant", float_model, feeds).changed == ()


def test_conv_behind_batch_norm_folds_into_it():
    g = Graph(7)
    parameters = [g.constant(n, np.linspace(0.5, 2, 2, dtype=np.float32)) for n in ("s", "b", "m", "v")]
    h = g.node("BatchNormalization", "x", *parameters, name="norm")
    g.node("Conv", h, g.weight("w", 4, 2, 3, 3), name="conv", output="y", pads=[1] * 4)
    float_model = g.model([value("x", ["N", 2, 6, 6])], [value("y", None)])
    feeds = [{"x": np.random.default_rng(1).standard_normal((2, 2, 6, 6)).astype(np.float32)}]
    result = applied("smooth_quant", float_model, feeds, smooth_quant_conv=True)
    assert "folded into norm" in result.changed[0]
    assert largest_difference(float_model, result.model, feeds) <= 1e-5


def test_dead_channels_and_extremes_are_kept_in_bounds():
    absmax, weight_max = np.array([0, 1, 1e30, 1, 2]), np.array([1, 0, 1, 1, 1e-30])
    scale = smoothing_scale(absmax, weight_max, 0.5)
    assert scale[0] == scale[1] == 1
    assert scale.min() >= 1e-3
    assert scale.max() <= 1e3
    assert np.array_equal(smoothing_scale(np.zeros(3), np.ones(3), 0.5), np.ones(3))


def test_the_model_given_is_not_changed_and_ops_keep_their_names():
    float_model = alone()
    result = applied("smooth_quant", float_model, rows())
    assert serialize(float_model) == serialize(alone())
    assert node(result.model, "fc").op_type == "MatMul"


def linears(n: int, width: int, seed: int) -> list[Linear]:
    g = Graph(seed)
    for i in range(n):
        matmul(g, "x", f"fc{i}", 24, width)
    editor = GraphEditor(g.model([value("x", ["N", width])], [value(g.nodes[0].output[0], None)]))
    return [found for op in editor.nodes if isinstance(found := read_linear(editor, op), Linear)]


def quantized_loss(x: np.ndarray, readers: list[Linear], scale: np.ndarray, per_tensor: bool) -> float:
    """Squared error of the outputs with uint8 activations and int8 weights."""
    low, high = min((x / scale).min(), 0), max((x / scale).max(), 0)
    step = (high - low) / 255
    zero = np.rint(-low / step)
    codes = np.clip(np.rint(x / scale / step) + zero, 0, 255)
    total = 0.0
    for reader in readers:
        weight = reader.weight[0, :, :, 0] * scale[:, None]
        steps = np.abs(weight).max(axis=None if per_tensor else 0) / 127
        exact = x @ reader.weight[0, :, :, 0]
        total += float((((codes - zero) * step @ (np.rint(weight / steps) * steps) - exact) ** 2).sum())
    return total


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("mean", [0.0, 1.0])
@pytest.mark.parametrize("per_tensor", [False, True])
def test_auto_alpha_is_within_a_tenth_of_the_best_of_all_real_ones(seed, mean, per_tensor):
    random = np.random.default_rng(seed)
    x = random.standard_normal((500, 48)) + mean
    x[:, random.choice(48, 3, replace=False)] *= [20, 50, 8]
    readers = linears(2, 48, seed)
    weight_max = np.maximum.reduce([reader.input_max() for reader in readers])
    statistics = ChannelStatistics.of(x, -1)

    def real(alpha: float) -> float:
        scale = smoothing_scale(statistics.absmax, weight_max, alpha)
        return quantized_loss(x, readers, scale, per_tensor)

    chosen = best_alpha(statistics, readers, per_tensor=per_tensor)
    assert chosen is not None
    assert real(chosen) <= 1.1 * min(real(alpha) for alpha in ALPHAS)
    assert real(chosen) < quantized_loss(x, readers, np.ones(48), per_tensor)


def test_auto_smooths_nothing_where_that_is_best():
    float_model = alone()
    flat = [{"x": np.sign(feed["x"])} for feed in rows()]
    weight = np.where(np.arange(24).reshape(6, 4) % 2, 1.0, -1.0).astype(np.float32)
    float_model.graph.initializer[0].raw_data = weight.tobytes()
    result = applied("smooth_quant", float_model, flat, smooth_quant_alpha="auto")
    assert result.changed == ()
    assert result.skipped == {"fc": "no smoothing is best"}
    assert result.model is float_model


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_random_chains_keep_their_outputs(data):
    g = Graph(data.draw(st.integers(0, 99)))
    h = "x"
    for i in range(data.draw(st.integers(1, 4))):
        residual = h
        kind = data.draw(st.sampled_from(["norm", "relu", "gelu", "none"]))
        if kind == "norm":
            h = g.node("LayerNormalization", h, g.weight(f"s{i}", 6), g.weight(f"t{i}", 6))
        elif kind != "none":
            h = g.node({"relu": "Relu", "gelu": "Sigmoid"}[kind], h)
        outs = [matmul(g, h, f"op{i}_{j}", 6) for j in range(data.draw(st.integers(1, 2)))]
        if data.draw(st.booleans()):
            outs[0] = g.node("Add", outs[0], g.weight(f"b{i}", 6))
        h = outs[0] if len(outs) == 1 else g.node("Mul", *outs)
        if data.draw(st.booleans()):
            h = g.node("Add", h, residual)
        if data.draw(st.booleans()):
            h = g.node("Mul", h, g.weight(f"m{i}", 6))
    float_model = model(g, h)
    result = applied(
        "smooth_quant",
        float_model,
        rows(),
        smooth_quant_alpha=data.draw(st.sampled_from([0.2, 0.5, 0.9, "auto"])),
        smooth_quant_scales_per_op=data.draw(st.booleans()),
    )
    assert largest_difference(float_model, result.model, rows()) <= 1e-4
