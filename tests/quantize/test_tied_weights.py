"""Tied embeddings are split or stay tied, and it is said. Oracle: the outputs of the model as it was."""

import numpy as np
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto

from disttune.quantize.digest import serialize
from disttune.quantize.graph import prepare
from disttune.quantize.summary import summarize
from tests.models import Graph, value


def tied(layer: str = "turned") -> ModelProto:
    """embed - mid - lm_head over the table of embed: by a Transpose, or as a Gemm with transB."""
    g = Graph(1)
    table = g.weight("emb", 24, 8)
    h = g.node("Gather", table, "ids", name="embed")
    h = g.node("MatMul", h, g.weight("w", 8, 8), name="mid")
    if layer == "turned":
        turned = g.node("Transpose", table, name="turn", perm=[1, 0])
        g.node("MatMul", h, turned, name="lm_head", output="logits")
    else:
        g.node("Gemm", h, table, name="lm_head", output="logits", transB=1)
    return g.model([value("ids", ["N"], TensorProto.INT64)], [value("logits", ["N", 24])])


def logits(model: ModelProto) -> np.ndarray:
    session = onnxruntime.InferenceSession(serialize(model), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"ids": np.arange(24)})[0])


@pytest.mark.parametrize("large_bytes", [1, 2**31])
@pytest.mark.parametrize("layer", ["turned", "gemm"])
def test_the_last_layer_gets_a_weight_of_its_own_and_it_is_told(layer: str, large_bytes: int) -> None:
    told: list[str] = []
    model = tied(layer)
    prepared = prepare(model, told.append, large_bytes=large_bytes)
    weights = {op.name: op.weight for op in summarize(prepared, model).ops}
    assert weights["embed"] is not None
    assert weights["lm_head"] is not None
    assert any('weight "emb" is tied: embed and lm_head read it. They are split' in line for line in told)
    np.testing.assert_allclose(logits(prepared), logits(model), rtol=1e-5, atol=1e-6)


def test_without_optimization_they_stay_tied_and_it_is_told() -> None:
    told: list[str] = []
    model = tied()
    prepared = prepare(model, told.append, recipes={"graph_optimization_level": "DISABLE_ALL"})
    weights = {op.name: op.weight for op in summarize(prepared, model).ops}
    assert weights["lm_head"] is None
    assert any("They stay tied, and lm_head stays in float" in line for line in told)


def test_a_model_without_ties_says_nothing() -> None:
    told: list[str] = []
    g = Graph(1)
    h = g.node("Gather", g.weight("emb", 24, 8), "ids", name="embed")
    g.node("MatMul", h, g.weight("w", 8, 8), name="mid", output="y")
    model = g.model([value("ids", ["N"], TensorProto.INT64)], [value("y", ["N", 8])])
    prepare(model, told.append)
    assert not told
