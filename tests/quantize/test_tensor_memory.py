"""Tensors beside their messages: the same values, size, digest and outputs as the model with them inside."""

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, numpy_helper

from disttune.config.errors import InternalError
from disttune.evaluate.model import QuantizedModel
from disttune.quantize.digest import describe_tensor, model_digest, serialize
from disttune.quantize.export import save_model
from disttune.quantize.size import model_bytes
from disttune.quantize.statistics.collect import collect, tensors_of_interest
from disttune.quantize.tensor_memory import (
    TensorMemory,
    in_memory,
    raw_values,
    tensor_values,
    whole_model,
    without_initializers,
    without_large_tensors,
)
from tests.models import Graph, attention, mlp, tiny_cnn, value

FEED = {"x": np.random.default_rng(0).standard_normal((3, 6)).astype(np.float32)}


def beside(model: ModelProto, memory: TensorMemory) -> ModelProto:
    """The model with all float initializers in memory."""
    changed = without_initializers(model)
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and tensor.dims:
            values, description = raw_values(tensor), describe_tensor(tensor)
            tensor = memory.tensor(values, tensor.data_type, tuple(tensor.dims), description, tensor.name)
        changed.graph.initializer.append(tensor)
    return changed


@pytest.mark.parametrize("make", [tiny_cnn, mlp, attention])
def test_size_digest_and_bytes_are_those_of_the_plain_model(make, tmp_path):
    memory = TensorMemory()
    model = make()

    changed = beside(model, memory)

    assert any(map(in_memory, changed.graph.initializer))
    assert model_bytes(changed) == len(serialize(model))
    assert model_digest(changed) == model_digest(model)
    assert serialize(whole_model(changed)) == serialize(model)
    save_model(changed, tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx").read_bytes() == serialize(model)


def test_a_session_a_file_and_statistics_are_those_of_the_plain_model(tmp_path):
    memory = TensorMemory()
    plain, changed = mlp(), beside(mlp(), memory)

    with QuantizedModel(plain) as a, QuantizedModel(changed) as b:
        for expected, found in zip(a.run(None, FEED), b.run(None, FEED), strict=True):
            np.testing.assert_array_equal(found, expected)
        assert b.proto == onnx.load(b) == plain
        assert b.size_bytes == a.size_bytes
    save_model(changed, tmp_path / "model.onnx", external_from_bytes=1)
    assert model_digest(onnx.load(tmp_path / "model.onnx")) == model_digest(plain)
    tensors = tensors_of_interest(plain)
    expected, found = (collect(m, [FEED], tensors).to_arrays() for m in (plain, changed))
    assert {n: a.tobytes() for n, a in found.items()} == {n: a.tobytes() for n, a in expected.items()}


@pytest.mark.parametrize("data_type", [TensorProto.INT4, TensorProto.BFLOAT16, TensorProto.FLOAT8E4M3FN])
def test_values_of_every_type_are_read_as_onnx_reads_them(data_type):
    memory = TensorMemory()
    dtype = onnx.helper.tensor_dtype_to_np_dtype(data_type)
    tensor = numpy_helper.from_array(np.arange(-3, 6).astype(dtype).reshape(3, 3), "w")
    assert tensor.data_type == data_type

    found = memory.tensor(raw_values(tensor), data_type, (3, 3), describe_tensor(tensor), "w")

    np.testing.assert_array_equal(tensor_values(found), numpy_helper.to_array(tensor))


def test_a_tensor_whose_memory_is_gone_says_so():
    changed = beside(mlp(), TensorMemory())

    with pytest.raises(InternalError, match=r'memory of tensor ".*" has been given up'):
        whole_model(changed)


def test_the_copy_without_large_tensors_keeps_their_shapes_and_changes_nothing():
    model = mlp()
    model.graph.initializer[0].raw_data = bytes(4 * 6 * 1000)
    model.graph.initializer[0].dims[:] = [6, 1000]
    before = serialize(model)
    light = without_large_tensors(model)
    assert [list(t.dims) for t in light.graph.initializer] == [list(t.dims) for t in model.graph.initializer]
    assert light.ByteSize() < 2000
    assert serialize(model) == before


def test_a_session_is_opened_without_copies(monkeypatch):
    memory = TensorMemory()
    changed, expected = beside(mlp(), memory), QuantizedModel(mlp()).run(None, FEED)
    monkeypatch.setattr("disttune.evaluate.model.give_to_session", None)

    with QuantizedModel(changed) as model:
        np.testing.assert_array_equal(model.run(None, FEED)[0], expected[0])


def test_values_that_the_optimizer_needs_are_not_taken_for_something_else():
    memory = TensorMemory()
    g = Graph()
    turned = g.node("Transpose", g.weight("w", 40, 6), perm=[1, 0])
    g.node("MatMul", "x", turned, output="y")
    plain = g.model([value("x", ["N", 6])], [value("y", ["N", 40])])

    with QuantizedModel(plain) as a, QuantizedModel(beside(plain, memory)) as b:
        np.testing.assert_array_equal(b.run(None, FEED)[0], a.run(None, FEED)[0])
