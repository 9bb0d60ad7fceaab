"""Perplexity over windows of tokens, and language models as they come: masks, positions, caches."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto

from disttune.config.errors import DataError, TrialError
from disttune.evaluate.evaluators import EvaluatorSpec, build_evaluators
from disttune.evaluate.metrics import find_metric
from disttune.quantize.summary import input_specs
from tests.models import Graph, value

TOKENS = np.random.default_rng(0).integers(0, 11, (20, 6))


def language_model() -> onnx.ModelProto:
    """logits (batch, seq, 11) of input_ids, attention_mask, position_ids and an empty cache."""
    g = Graph(1)
    h = g.node("Gather", g.weight("table", 11, 8), "input_ids")
    mask = g.node("Cast", "attention_mask", to=TensorProto.FLOAT)
    h = g.node("Mul", h, g.node("Unsqueeze", mask, g.constant("minus_1", np.array([-1]))))
    places = g.node("Cast", "position_ids", to=TensorProto.FLOAT)
    h = g.node("Add", h, g.node("Unsqueeze", places, "minus_1"))
    present = g.node("Concat", "past_key_values.0.key", h, axis=1, output="present")
    g.node("MatMul", present, g.weight("head", 8, 11), name="head", output="logits")
    return g.model(
        [
            value("input_ids", ["batch", "seq"], TensorProto.INT64),
            value("attention_mask", ["batch", "seq"], TensorProto.INT64),
            value("position_ids", ["batch", "seq"], TensorProto.INT64),
            value("past_key_values.0.key", ["batch", "past", 8]),
        ],
        [value("logits", ["batch", "total", 11])],
    )


def measured(file: Path, model: onnx.ModelProto) -> float:
    specs = (EvaluatorSpec(metric="perplexity", data=file),)
    (evaluator,) = build_evaluators(specs, file.parent, input_specs(model), ["logits"])
    assert not evaluator.higher_is_better
    return float(evaluator.function(onnxruntime.InferenceSession(model.SerializeToString())))


def plain(model: onnx.ModelProto) -> float:
    """One window, one token at a time."""
    session = onnxruntime.InferenceSession(model.SerializeToString())
    losses = []
    for window in TOKENS:
        feed = {
            "input_ids": window[None],
            "attention_mask": np.ones((1, 6), np.int64),
            "position_ids": np.arange(6)[None],
            "past_key_values.0.key": np.zeros((1, 0, 8), np.float32),
        }
        (logits,) = session.run(None, feed)
        for position in range(5):
            row = logits[0, position].astype(np.float64)
            losses.append(np.log(np.exp(row).sum()) - row[window[position + 1]])
    return float(np.exp(np.mean(losses)))


@pytest.mark.parametrize("name", ["tokens.npy", "tokens.npz"])
def test_windows_of_tokens_are_all_that_it_needs(tmp_path: Path, name: str) -> None:
    model, file = language_model(), tmp_path / name
    if name.endswith("y"):
        np.save(file, TOKENS)
    else:
        np.savez(file, input_ids=TOKENS)
    assert measured(file, model) == pytest.approx(plain(model))


def test_labels_that_are_given_count_and_negative_ones_do_not(tmp_path: Path) -> None:
    model, file = language_model(), tmp_path / "data.npz"
    labels = np.full(TOKENS.shape, -100)
    labels[:, :-1] = TOKENS[:, 1:]
    np.savez(file, input_ids=TOKENS, labels=labels)
    assert measured(file, model) == pytest.approx(plain(model))


def test_a_missing_input_that_is_nothing_of_a_language_model_is_told(tmp_path: Path) -> None:
    model, file = language_model(), tmp_path / "data.npz"
    model.graph.input.append(value("style", ["batch", 2]))
    np.savez(file, input_ids=TOKENS)
    with pytest.raises(DataError, match='input "style" is missing'):
        measured(file, model)


def test_uniform_logits_have_the_size_of_the_vocabulary() -> None:
    metric = find_metric("perplexity")
    scores = metric.score([np.zeros((3, 4, 50))], np.zeros((3, 4), np.int64))
    assert callable(metric.reduce)
    assert metric.reduce(scores) == pytest.approx(50)
    assert metric.reduce(np.array([1e9])) < np.inf


@pytest.mark.parametrize(
    ("shape", "labels"),
    [((2, 5), np.zeros((2, 5))), ((2, 3, 4), np.full((2, 3), 4)), ((2, 3, 4), np.full((2, 3), -1))],
)
def test_what_does_not_fit_is_told(shape: tuple[int, ...], labels: np.ndarray) -> None:
    with pytest.raises(TrialError, match="perplexity"):
        find_metric("perplexity").score([np.zeros(shape)], labels.astype(np.int64))
