"""Oracles: least squares on real rows whose inputs are independent; the error of a real op's outputs."""

import numpy as np
import pytest
from onnx import ModelProto

from disttune.config.schemes import FLOAT32, OpConfig, Scheme
from disttune.quantize.built_layers import correctable_nodes
from disttune.quantize.engine import EngineSettings
from disttune.quantize.fast import FastEngine
from disttune.quantize.graph import prepare
from disttune.quantize.statistics.layer_means import LayerMeans
from disttune.quantize.weight_correction import scale_ratio
from disttune.space.candidate import Candidate
from tests.models import Graph, attention, feeds, mlp, tiny_cnn, value
from tests.quantize.engines import array, node_of, outputs, static

WEIGHTS = [
    OpConfig("weight_only", Scheme("int4", True, "per_channel")),
    OpConfig("weight_only", Scheme("int4", True, "per_tensor")),
    OpConfig("weight_only", Scheme("int4", True, "per_group", group_size=16)),
]


def built(model: ModelProto, configs: dict[str, OpConfig], form: str = "qdq", **recipes: bool) -> ModelProto:
    ops = {n.name: configs.get(n.name, FLOAT32) for n in model.graph.node}
    settings = EngineSettings(weight_only_format=form)
    return FastEngine(model, None, feeds(model, 8), settings).build(Candidate.of(ops, recipes))


def rows(mean: float, n: int = 20000, k: int = 12) -> np.ndarray:
    x = np.random.default_rng(0).standard_normal((n, k)) * np.linspace(0.2, 3, k) + mean
    x -= x.mean(axis=0) - mean
    q, _ = np.linalg.qr(x - mean)  # exactly uncorrelated, as the formula assumes
    return q * (x - mean).std(axis=0) * np.sqrt(n) + mean


@pytest.mark.parametrize("mean", [0.0, 0.7])
def test_the_ratio_is_that_of_least_squares(mean):
    x = rows(mean)
    w = np.random.default_rng(1).standard_normal((12, 5))
    v = 0.3 * np.rint(w / 0.3) * [0.9, 1, 1.1, 1, 1]
    means = LayerMeans(x.mean(axis=0)[None], (x**2).mean(axis=0)[None])
    for n, ratio in enumerate(scale_ratio(w[None], v[None], means)):
        expected = np.linalg.lstsq((x @ v[:, n])[:, None], x @ w[:, n], rcond=None)[0][0]
        assert ratio == pytest.approx(expected, rel=1e-6)
    together = np.linalg.lstsq((x @ v).reshape(-1, 1), (x @ w).ravel(), rcond=None)[0][0]
    assert np.allclose(scale_ratio(w[None], v[None], means, per_tensor=True), together)


def test_outputs_that_are_always_0_keep_their_scale():
    means = LayerMeans(np.ones((1, 3)), np.ones((1, 3)))
    weight = np.ones((1, 3, 2))
    assert scale_ratio(weight, 0 * weight, means).tolist() == [1, 1]
    assert scale_ratio(weight, 1e-3 * weight, means).tolist() == [2, 2]


@pytest.mark.parametrize("config", WEIGHTS, ids=str)
@pytest.mark.parametrize("form", ["qdq", "matmulnbits"])
def test_the_error_of_one_layers_outputs_falls(config, form):
    g = Graph(5)
    g.node("MatMul", "x", g.weight("w", 32, 24), name="fc", output="y")
    model = prepare(g.model([value("x", ["N", 32])], [value("y", None)]))
    exact = np.concatenate(outputs(model, feeds(model, 8)))
    plain, corrected = (
        built(model, {"fc": config}, form, **recipes) for recipes in ({}, {"weight_correction": True})
    )
    errors = [((np.concatenate(outputs(m, feeds(model, 8))) - exact) ** 2).mean() for m in (plain, corrected)]
    if form == "qdq" and config.weight.granularity == "per_group":
        assert errors[0] == errors[1]  # scales of groups are left alone there
    else:
        assert errors[1] < errors[0]


@pytest.mark.parametrize("make", [tiny_cnn, mlp, attention])
@pytest.mark.parametrize("per_channel", [False, True])
def test_biases_stay_what_they_are(make, per_channel):
    model = prepare(make())
    configs = dict.fromkeys(correctable_nodes(model), static(per_channel=per_channel))
    plain, corrected = built(model, configs), built(model, configs, weight_correction=True)
    for op, node in correctable_nodes(model).items():
        if len(node.input) < 3:
            continue
        values = []
        for m in (plain, corrected):
            maker = next(n for n in m.graph.node if node_of(m, op).input[2] in n.output)
            codes, scale = (array(m, name) for name in maker.input[:2])
            weight = next(n for n in m.graph.node if node_of(m, op).input[1] in n.output)
            values.append((codes * scale, scale / array(m, weight.input[1])))
        assert np.allclose(values[0][0], values[1][0], atol=1e-3)
        assert np.allclose(values[0][1], values[1][1], rtol=1e-5)  # the data's scale: fusion asks for it


def test_weights_with_zero_points_are_left_alone():
    model = prepare(mlp())
    config = OpConfig("weight_only", Scheme("uint8", False, "per_channel"))
    configs = dict.fromkeys(correctable_nodes(model), config)
    assert built(model, configs) == built(model, configs, weight_correction=True)
