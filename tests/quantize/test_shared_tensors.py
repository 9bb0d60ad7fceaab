"""What is told of a blueprint is what the whole model would tell, and its session computes the same."""

import gc
import weakref

import numpy as np
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, numpy_helper

from disttune.config.quantization_section import QuantizationSection
from disttune.evaluate.model import QuantizedModel
from disttune.quantize.builder.writer import Blueprint
from disttune.quantize.counts import count_quantized
from disttune.quantize.digest import model_digest, serialize
from disttune.quantize.engine import EngineSettings, find_engine
from disttune.quantize.graph import prepare
from disttune.quantize.shared_tensors import SharedTensors
from disttune.quantize.summary import summarize
from disttune.quantize.tensor_memory import TensorMemory
from disttune.space.build import build_space
from disttune.space.capability import load_capability
from tests import models


def blueprints(model, n: int = 4) -> tuple[list[Blueprint], list]:
    """The first candidates' blueprints of one engine, so that they share tensors."""
    prepared = prepare(model)
    summary, feeds = summarize(prepared, model), models.feeds(model)
    engine = find_engine("fast")(prepared, summary, feeds, EngineSettings())
    space = build_space(summary, load_capability("ort-cpu"), QuantizationSection())
    return [engine.blueprint(space[i]) for i in range(min(n, space.size))], feeds


@pytest.mark.parametrize("make", [models.tiny_cnn, models.depthwise_cnn, models.mlp, models.attention])
def test_digest_size_and_count_are_those_of_the_whole_model(make):
    shared = SharedTensors()
    for blueprint in blueprints(make())[0]:
        model = blueprint.model()
        assert shared.digest(blueprint) == model_digest(model)
        assert shared.size_bytes(blueprint) == len(serialize(model))
        assert shared.n_quantized(blueprint) == count_quantized(model)


def test_the_memory_of_tensors_that_no_recent_model_has_is_given_up():
    shared, owner, values = SharedTensors(), TensorMemory(), np.zeros(2**14, np.uint8)
    tensor = owner.tensor(values, TensorProto.UINT8, values.shape, b"zeros")
    blueprint = Blueprint(ModelProto(), {"w": tensor}, owner)
    shared.digest(blueprint)
    _, handed = shared.session_parts(blueprint)
    held = weakref.ref(values)
    del owner, values, blueprint, handed
    assert held() is not None
    for other in range(20):
        shared.digest(Blueprint(ModelProto(), {"w": numpy_helper.from_array(np.full(300, other))}))
    gc.collect()
    assert held() is None


@pytest.mark.parametrize("make", [models.tiny_cnn, models.mlp, models.attention])
def test_a_session_over_shared_tensors_computes_the_same_bits(make):
    shared = SharedTensors()
    found, feeds = blueprints(make())
    for blueprint in found:
        plain = onnxruntime.InferenceSession(serialize(blueprint.model()))
        with QuantizedModel(blueprint, shared=shared) as model:
            for a, b in zip(model.run(None, feeds[0]), plain.run(None, feeds[0]), strict=True):
                np.testing.assert_array_equal(a, b)
