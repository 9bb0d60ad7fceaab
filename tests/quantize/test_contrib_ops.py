"""Float models with ops of com.microsoft: what is known gets codes, the rest stays. Oracle: onnxruntime."""

import numpy as np
import onnxruntime
import pytest
from onnx import ModelProto, helper

from disttune.config.schemes import FLOAT32, OpConfig, Scheme, parse_scheme_method
from disttune.quantize.digest import serialize
from disttune.quantize.engine import EngineSettings
from disttune.quantize.fast import FastEngine
from disttune.quantize.graph import check_model, prepare
from disttune.quantize.statistics.collect import collect
from disttune.quantize.summary import summarize
from disttune.space.candidate import Candidate
from tests import contrib_models
from tests.models import Graph, value

MODELS = [
    (contrib_models.decoder, contrib_models.decoder_feeds, 13),
    (contrib_models.encoder, contrib_models.encoder_feeds, 3),
]


def run(model: ModelProto, feeds) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(serialize(model), providers=["CPUExecutionProvider"])
    return [array for feed in feeds for array in session.run(None, feed) if array.size]


@pytest.mark.parametrize(("make", "make_feeds", "n_matrices"), MODELS, ids=["decoder", "encoder"])
@pytest.mark.parametrize("method", ["rtn", "gptq", "awq:sequential=false", "hqq"])
@pytest.mark.parametrize("form", ["matmulnbits", "qdq"])
def test_their_matrices_are_quantized_and_the_rest_stays_float(make, make_feeds, n_matrices, method, form):
    model, feeds = make(), make_feeds()
    check_model(model)
    prepared = prepare(model)
    summary = summarize(prepared, model)
    name, _, options = parse_scheme_method(method)
    config = OpConfig("weight_only", Scheme("uint8", False, "per_group", 16, name, options=options))
    ops = {op.name: config if op.weight and op.op_type == "MatMul" else FLOAT32 for op in summary.ops}
    engine = FastEngine(prepared, summary, feeds, EngineSettings(weight_only_format=form))
    built = engine.build(Candidate.of(ops))
    assert sum(config.quantized for config in ops.values()) == n_matrices
    if form == "matmulnbits":
        assert sum(n.op_type == "MatMulNBits" for n in built.graph.node) == n_matrices
    for found, expected in zip(run(built, feeds), run(model, feeds), strict=True):
        assert np.abs(found - expected).mean() < 0.05 * np.abs(expected).mean()


@pytest.mark.parametrize(("make", "make_feeds", "_"), MODELS, ids=["decoder", "encoder"])
def test_their_activations_have_statistics(make, make_feeds, _):
    model, feeds = make(), make_feeds()
    prepared = prepare(model)
    tensor = next(n.input[0] for n in prepared.graph.node if n.op_type == "MatMul")
    assert collect(prepared, feeds, [tensor])[tensor].n > 0


@pytest.mark.parametrize(
    ("attributes", "is_plain"),
    [
        ({"transB": 1}, True),
        ({"alpha": 0.5}, True),
        ({"transB": 1, "alpha": -2.0}, True),
        ({"transA": 1}, False),
    ],
)
def test_a_fused_matmul_with_a_constant_matrix_is_a_plain_one(attributes, is_plain):
    g = Graph(1)
    weight = g.weight("w", 6, 8) if "transB" in attributes else g.weight("w", 8, 6)
    g.node("FusedMatMul", "x", weight, name="fused", output="y", domain="com.microsoft", **attributes)
    model = g.model([value("x", [8, 8])], [value("y", [8, 6])])
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    prepared = prepare(model)
    assert [node.op_type for node in prepared.graph.node] == ["MatMul" if is_plain else "FusedMatMul"]
    feeds = [{"x": np.random.default_rng(0).standard_normal((8, 8)).astype(np.float32)}]
    for found, expected in zip(run(prepared, feeds), run(model, feeds), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
