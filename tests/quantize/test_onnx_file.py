"""Reading a file with its large weights beside the model, against protobuf's own parse of the whole file."""

import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, numpy_helper

from disttune.config.errors import ModelError
from disttune.quantize.digest import model_digest, serialize
from disttune.quantize.graph import read_model
from disttune.quantize.onnx_file import parse_onnx
from disttune.quantize.protobuf_fields import field_head, fields
from disttune.quantize.tensor_memory import TensorMemory, in_memory, whole_model
from tests.models import Graph, value


def wide(n: int = 80) -> ModelProto:
    g = Graph()
    h = g.node("MatMul", "x", g.weight("w", 64, n))
    h = g.node("Add", h, g.weight("b", n))
    g.node("MatMul", h, g.weight("v", n, 70), output="y")
    return g.model([value("x", ["N", 64])], [value("y", ["N", 70])])


@pytest.fixture
def path(tmp_path):
    onnx.save(wide(), tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def test_large_weights_stand_beside_the_model_and_nothing_has_changed(path):
    memory = TensorMemory()

    model = parse_onnx(path, memory)

    assert [in_memory(t) for t in model.graph.initializer] == [True, False, True]
    assert serialize(whole_model(model)) == serialize(wide())
    assert model_digest(model) == model_digest(wide())


def test_what_stands_around_the_weights_in_the_file_is_kept(path):
    whole = wide()
    whole.producer_name = "somebody"
    whole.graph.doc_string = "behind the weights"
    whole.graph.initializer.append(numpy_helper.from_array(numpy_helper.to_array(whole.graph.initializer[1])))
    path.write_bytes(whole.SerializeToString())
    memory = TensorMemory()
    assert serialize(whole_model(parse_onnx(path, memory))) == serialize(whole)


def test_a_model_in_two_halves_is_read_as_protobuf_does(path):
    """Equal fields that come twice are merged: nobody writes that, and it is valid."""
    graph = wide().graph.SerializeToString()
    path.write_bytes(wide().SerializeToString() + field_head(7, len(graph)) + graph)
    memory = TensorMemory()
    assert serialize(parse_onnx(path, memory)) == serialize(ModelProto.FromString(path.read_bytes()))


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(0, 10**6), at=st.integers(0, 10**6), bit=st.integers(0, 7))
def test_a_damaged_file_is_refused_or_read_as_protobuf_does(tmp_path_factory, cut, at, bit):
    data = bytearray(wide().SerializeToString())
    data[at % len(data)] ^= 1 << bit
    del data[cut % (2 * len(data)) :]
    file = tmp_path_factory.mktemp("damaged") / "m.onnx"
    file.write_bytes(data or b"\0")
    try:
        expected = model_digest(read_model(file))
    except (ModelError, TypeError, ValueError, AttributeError, KeyError) as error:
        expected = type(error).__name__
    memory = TensorMemory()
    try:
        found = model_digest(read_model(file, memory))
    except (ModelError, TypeError, ValueError, AttributeError, KeyError) as error:
        found = type(error).__name__
    assert found == expected


def test_fields_are_found_with_their_places():
    message = field_head(1, 3) + b"abc" + bytes([2 << 3, 0x96, 0x01]) + bytes([5 << 3 | 5, 1, 2, 3, 4])
    found = list(fields(memoryview(message), 0, len(message)))
    assert [(f.number, f.has_length, message[f.content : f.end]) for f in found] == [
        (1, True, b"abc"),
        (2, False, b"\x96\x01"),
        (5, False, b"\x01\x02\x03\x04"),
    ]


@pytest.mark.parametrize("message", [b"\x0a\x05abc", b"\x0b\x00", b"\x80", b"\x09\x00"])
def test_what_is_no_message_is_an_error(message):
    with pytest.raises(ValueError, match=r"."):
        list(fields(memoryview(message), 0, len(message)))
