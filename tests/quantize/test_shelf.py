"""Codes from a shelf: the models are those that a process makes alone, and nothing is made twice."""

from collections.abc import Mapping

import numpy as np
import onnxruntime
import pytest

from disttune.config.quantization_section import QuantizationSection
from disttune.evaluate.model import QuantizedModel
from disttune.quantize import shelf as shelves
from disttune.quantize.builder import constants, nbits_tensors
from disttune.quantize.digest import model_digest, serialize
from disttune.quantize.engine import EngineSettings
from disttune.quantize.fast import FastEngine
from disttune.quantize.graph import prepare
from disttune.quantize.shared_tensors import SharedTensors
from disttune.quantize.summary import summarize
from disttune.quantize.tensor_memory import in_memory, whole_model
from disttune.space.build import build_space
from disttune.space.capability import load_capability
from tests import models
from tests.models import feeds


class Dictionary:
    """A shelf for one process."""

    def __init__(self) -> None:
        self.arrays: dict[str, Mapping[str, np.ndarray]] = {}

    def find(self, key: str) -> shelves.Arrays | None:
        return self.arrays.get(key)

    def keep(self, key: str, arrays: shelves.Arrays) -> shelves.Arrays:
        return self.arrays.setdefault(key, arrays)


@pytest.fixture(autouse=True)
def small_weights_count(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(constants, "SMALLEST_BYTES", 0)
    monkeypatch.setattr(nbits_tensors, "SMALLEST_BYTES", 0)
    monkeypatch.setattr(shelves, "LEAST_BYTES", 0)


def engines(model, shelf, approach="auto"):
    """An engine without and one with the shelf, and some candidates."""
    prepared = prepare(model)
    summary = summarize(prepared, model)
    space = build_space(summary, load_capability("ort-cpu"), QuantizationSection(approach=approach))
    kind = "matmulnbits" if approach == "weight_only" else "qdq"
    settings = [EngineSettings(shelf=s, weight_only_format=kind) for s in (None, shelf)]
    found = [FastEngine(prepared, summary, feeds(model, 4), s) for s in settings]
    return *found, [space[i] for i in range(0, space.size, max(1, space.size // 7))][:7]


@pytest.mark.parametrize(
    ("make", "approach"),
    [
        *((make, "auto") for make in (models.tiny_cnn, models.mlp, models.attention, models.recurrent)),
        *((make, "weight_only") for make in (models.mlp, models.attention)),
    ],
)
def test_models_digests_and_sizes_are_the_same(make, approach):
    plain, shelved, candidates = engines(make(), Dictionary(), approach)
    shared = SharedTensors()
    for candidate in candidates:
        expected, found = plain.blueprint(candidate), shelved.blueprint(candidate)

        assert serialize(whole_model(found.model())) == serialize(expected.model())
        assert shared.digest(found) == shared.digest(expected) == model_digest(found.model())
        assert shared.size_bytes(found) == len(serialize(expected.model()))


def test_sessions_compute_the_same_bits():
    model = models.attention()
    plain, shelved, candidates = engines(model, Dictionary())
    for candidate in candidates:
        session = onnxruntime.InferenceSession(serialize(plain.build(candidate)))
        with QuantizedModel(shelved.blueprint(candidate)) as tried:
            for a, b in zip(
                tried.run(None, feeds(model, 1)[0]), session.run(None, feeds(model, 1)[0]), strict=True
            ):
                np.testing.assert_array_equal(a, b)


def test_a_second_process_makes_nothing(monkeypatch):
    shelf = Dictionary()
    _, first, candidates = engines(models.mlp(), shelf)
    expected = [model_digest(first.build(candidate)) for candidate in candidates]
    _, second, _ = engines(models.mlp(), shelf)
    monkeypatch.setattr(constants, "quantize_weight", None)

    found = [model_digest(second.build(candidate)) for candidate in candidates]

    assert found == expected
    assert any(map(in_memory, second.blueprint(candidates[0]).skeleton.graph.initializer))


def test_another_weight_of_the_same_name_has_codes_of_its_own():
    shelf = Dictionary()
    _, first, candidates = engines(models.mlp(), shelf)
    other = models.mlp()
    other.graph.initializer[0].raw_data = bytes(reversed(other.graph.initializer[0].raw_data[:4])) + bytes(
        other.graph.initializer[0].raw_data[4:]
    )
    plain, second, _ = engines(other, shelf)
    first.build(candidates[0])

    assert model_digest(second.build(candidates[0])) == model_digest(plain.build(candidates[0]))


def test_what_weights_alone_become_is_held_once(monkeypatch):
    """Solutions of gptq, and the constants of MatMulNBits that are made of them."""
    shelf = Dictionary()
    _, first, candidates = engines(models.mlp(), shelf, "weight_only")
    configs = {c.weight.method for candidate in candidates for c in candidate.configs().values() if c.weight}
    assert "gptq" in configs
    expected = [model_digest(first.build(candidate)) for candidate in candidates]
    assert any(key.startswith("solution ") for key in shelf.arrays)
    _, second, _ = engines(models.mlp(), shelf, "weight_only")
    monkeypatch.setattr(constants, "nbits_of", None)

    blueprints = [second.blueprint(candidate) for candidate in candidates]

    assert [model_digest(blueprint.model()) for blueprint in blueprints] == expected
    assert any(map(in_memory, blueprints[0].skeleton.graph.initializer))
