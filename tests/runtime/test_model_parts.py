"""A model through the replica: the same model, its large weights mapped and not copied."""

import gc
import os

import numpy as np
import pytest
from onnx import ModelProto

from disttune.quantize.digest import model_digest, serialize
from disttune.quantize.tensor_memory import TensorMemory, in_memory, put_beside, tensor_values, whole_model
from disttune.runtime.model_parts import model_from, model_parts, over_replica
from disttune.runtime.replica import Replica, create_memory_file, write_replica
from tests.models import Graph, value


def wide() -> ModelProto:
    """Two layers with equal large weights, and a third; x (N, 64) to y (N, 4)."""
    g = Graph()
    same = g.random.standard_normal((64, 64)).astype(np.float32)
    h = g.node("MatMul", "x", g.constant("a", same))
    h = g.node("Relu", g.node("MatMul", h, g.constant("b", same)))
    h = g.node("MatMul", h, g.weight("c", 64, 128))
    g.node("MatMul", h, g.weight("small", 128, 4), output="y")
    return g.model([value("x", ["N", 64])], [value("y", ["N", 4])])


@pytest.fixture
def replica():
    descriptor = create_memory_file()
    write_replica(descriptor, model_parts(wide()))
    yield Replica(descriptor)
    os.close(descriptor)


def test_a_model_comes_back_over_the_mapping(replica):
    memory = TensorMemory()

    model = model_from(replica, memory)

    kept = {t.name: in_memory(t) for t in model.graph.initializer}
    assert kept == {"a": True, "b": True, "c": True, "small": False}
    assert model_digest(model) == model_digest(wide())
    assert serialize(whole_model(model)) == serialize(wide())
    assert not tensor_values(model.graph.initializer[0]).flags.writeable


def test_equal_weights_are_one_part(replica):
    assert len([name for name in replica.names() if name.startswith("weights/")]) == 2


def test_another_model_uses_the_weights_that_it_has_in_common(replica):
    memory = TensorMemory()
    other = wide()
    other.graph.initializer[2].raw_data = bytes(len(other.graph.initializer[2].raw_data))

    changed = over_replica(other, replica, memory)

    assert [in_memory(t) for t in changed.graph.initializer] == [True, True, False, False]
    assert model_digest(changed) == model_digest(other)


def test_what_a_replica_lacks_outlives_the_memory_that_held_it(replica):
    """Weights of the float model that preparing it has changed, as a folded norm does."""
    other = wide()
    other.graph.initializer[2].raw_data = bytes(len(other.graph.initializer[2].raw_data))
    before, after = TensorMemory(), TensorMemory()

    changed = over_replica(put_beside(other, before), replica, after)

    del before
    gc.collect()
    assert [in_memory(t) for t in changed.graph.initializer] == [True, True, True, False]
    assert serialize(whole_model(changed)) == serialize(other)
