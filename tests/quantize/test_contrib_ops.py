"""Float models with ops of com.microsoft: what is known gets codes, the rest stays. Oracle: onnxruntime."""

import numpy as np
import onnxruntime
import pytest
from onnx import ModelProto

from disttune.config.schemes import FLOAT32, OpConfig, Scheme, parse_scheme_method
from disttune.quantize.digest import serialize
from disttune.quantize.engine import EngineSettings
from disttune.quantize.fast import FastEngine
from disttune.quantize.graph import check_model, prepare
from disttune.quantize.statistics.collect import collect
from disttune.quantize.summary import summarize
from disttune.space.candidate import Candidate
from tests import contrib_models

MODELS = [
    (contrib_models.decoder, contrib_models.decoder_feeds, 12),
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
