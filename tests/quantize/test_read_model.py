from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from disttune.config.errors import ModelError
from disttune.quantize import graph
from disttune.quantize.digest import model_digest
from disttune.quantize.graph import check_model, prepare, read_model
from disttune.quantize.tensor_memory import TensorMemory, in_memory
from tests.models import Graph, tiny_cnn, value, with_branches


def complaint(path: Path) -> str:
    with pytest.raises(ModelError) as caught:
        read_model(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def external(path: Path) -> Path:
    onnx.save_model(tiny_cnn(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    return path


def with_weight(dtype: object) -> onnx.ModelProto:
    g = Graph()
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    g.node("MatMul", "x", g.constant("w", np.ones((2, 2), dtype)), output="y")
    return g.model([value("x", ["N", 2], kind)], [value("y", ["N", 2], kind)])


def test_a_model_with_its_data_in_a_second_file_is_read_whole(tmp_path):
    model = read_model(external(tmp_path / "m.onnx"))
    weights = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    expected = {t.name: numpy_helper.to_array(t) for t in tiny_cnn().graph.initializer}
    assert all(np.array_equal(weights[name], array) for name, array in expected.items())


def test_a_missing_file_is_named(tmp_path):
    message = complaint(tmp_path / "m.onnx")
    assert message.startswith(f"model {tmp_path / 'm.onnx'} does not exist.")
    assert "model.path" in message


def test_a_directory_is_no_model(tmp_path):
    assert complaint(tmp_path) == f"model {tmp_path} is a directory. Give the .onnx file itself."


def test_an_empty_file_is_told_from_a_wrong_one(tmp_path):
    assert "is empty (0 bytes)" in complaint(written(tmp_path / "m.onnx", b""))


@pytest.mark.parametrize(
    "data", [b"PK\x03\x04 a zip file", b"version https://git-lfs", bytes(range(256)), b"\x08\x08"]
)
def test_other_files_are_no_onnx(tmp_path, data):
    message = complaint(written(tmp_path / "m.onnx", data))
    assert "is not an ONNX file" in message
    assert message.endswith("Export the network as ONNX.")


def test_a_message_without_nodes_is_no_model():
    with pytest.raises(ModelError, match="it has no graph"):
        check_model(onnx.ModelProto(graph=onnx.GraphProto(name="empty")))


def test_a_model_without_opset_is_refused():
    model = tiny_cnn()
    del model.opset_import[:]
    with pytest.raises(ModelError, match="says nothing of its opset"):
        check_model(model)


def test_a_missing_data_file_is_named_with_the_tensor_that_needs_it(tmp_path):
    path = external(tmp_path / "m.onnx")
    (tmp_path / "weights.bin").unlink()
    message = complaint(path)
    assert str(tmp_path / "weights.bin") in message
    assert '(needed by "w1")' in message


def test_a_data_file_that_is_too_short_is_named(tmp_path):
    path = external(tmp_path / "m.onnx")
    written(tmp_path / "weights.bin", b"short")
    assert "is too short" in complaint(path)


def test_a_data_file_outside_the_models_folder_is_refused(tmp_path):
    (tmp_path / "models").mkdir()
    path = external(tmp_path / "models" / "m.onnx")
    (tmp_path / "models" / "weights.bin").rename(tmp_path / "weights.bin")
    moved = onnx.load(path, load_external_data=False)
    for tensor in moved.graph.initializer:
        tensor.external_data[0].value = "../weights.bin"
    assert "cannot be read" in complaint(written(path, moved.SerializeToString()))


@pytest.mark.parametrize(
    "op_type", ["QuantizeLinear", "MatMulInteger", "QLinearConv", "MatMulNBits", "QGemm"]
)
def test_a_quantized_model_is_refused(op_type):
    model = tiny_cnn()
    model.graph.node[0].op_type = op_type
    with pytest.raises(ModelError, match=rf"already quantized \(it has {op_type}\). Give the float32 model"):
        check_model(model)


def test_a_quantized_node_inside_a_branch_is_found():
    model = with_branches()
    next(n for n in model.graph.node if n.op_type == "If").attribute[0].g.node[0].op_type = "QLinearMatMul"
    with pytest.raises(ModelError, match="QLinearMatMul"):
        check_model(model)


@pytest.mark.parametrize(("dtype", "name"), [(np.float16, "float16"), (np.float64, "float64")])
def test_weights_of_other_float_types_are_refused(dtype, name):
    with pytest.raises(ModelError, match=rf'has {name} weights \("w"\). Export it as float32'):
        check_model(with_weight(dtype), "model m.onnx")


def test_bfloat16_weights_are_refused():
    model = with_weight(np.float32)
    model.graph.initializer[0].data_type = TensorProto.BFLOAT16
    with pytest.raises(ModelError, match="bfloat16 weights"):
        check_model(model)


def test_external_data_of_a_large_model_is_mapped_and_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(graph, "LARGE_BYTES", 10_000)
    g = Graph()
    h = g.node("MatMul", "x", g.weight("w", 64, 80))
    g.node("Add", h, g.weight("b", 80), output="y")
    plain = g.model([value("x", ["N", 64])], [value("y", ["N", 80])])
    expected = model_digest(plain), model_digest(prepare(plain))
    onnx.save(plain, tmp_path / "m.onnx", save_as_external_data=True, location="m.bin", size_threshold=0)
    memory = TensorMemory()

    model = read_model(tmp_path / "m.onnx", memory)

    assert [in_memory(t) for t in model.graph.initializer] == [True, False]
    warnings: list[str] = []
    prepared = prepare(model, warnings.append, large_bytes=10_000)
    assert (model_digest(model), model_digest(prepared)) == expected
    assert warnings == [
        "the model is large: 0.0 GB of weights were left as they are while the graph was optimized "
        "(what is computed from them alone stays in the graph)"
    ]


def test_an_old_large_model_is_raised(tmp_path, monkeypatch):
    monkeypatch.setattr(graph, "LARGE_BYTES", 10_000)
    g = Graph()
    g.node("MatMul", "x", g.weight("w", 64, 80), output="y")
    plain = g.model([value("x", ["N", 64])], [value("y", ["N", 80])], opset=11)
    expected = model_digest(prepare(plain))
    onnx.save(plain, tmp_path / "m.onnx", save_as_external_data=True, location="m.bin")
    memory = TensorMemory()

    prepared = prepare(read_model(tmp_path / "m.onnx", memory))

    assert prepared.opset_import[0].version == 13
    assert model_digest(prepared) == expected
