import gc
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, numpy_helper

from disttune.config.errors import ModelError, TrialError
from disttune.evaluate.model import QuantizedModel, check_providers
from disttune.quantize.builder.writer import Blueprint
from tests.evaluate.small_models import linear, rows
from tests.models import Graph, value

CPU = ("CPUExecutionProvider",)


@pytest.fixture
def model(tmp_path):
    with QuantizedModel(linear(2 * np.eye(4)), 1, CPU, tmp_path / "scratch") as model:
        yield model


def test_it_runs_as_an_inference_session(model):
    assert np.array_equal(model.run(["y"], {"x": rows(3)})[0], 2 * rows(3))
    assert [i.name for i in model.get_inputs()] == ["x"]
    assert [o.name for o in model.get_outputs()] == ["y"]
    assert model.get_providers() == list(CPU)


def test_it_can_be_bound_to_buffers_as_a_session(model):
    for binding in (model.io_binding(), onnxruntime.IOBinding(model)):
        binding.bind_cpu_input("x", rows(2))
        binding.bind_output("y")
        model.run_with_iobinding(binding)
        assert np.array_equal(binding.copy_outputs_to_cpu()[0], 2 * rows(2))


def test_it_opens_as_a_file_everywhere(model):
    expected = onnxruntime.InferenceSession(model.proto.SerializeToString()).run(None, {"x": rows(3)})[0]
    assert np.array_equal(onnxruntime.InferenceSession(model).run(None, {"x": rows(3)})[0], expected)
    assert onnx.load(model) == model.proto
    assert Path(model).stat().st_size == model.size_bytes == model.proto.ByteSize()


def test_functions_written_for_a_model_proto_can_use_it(model, tmp_path):
    again = onnxruntime.InferenceSession(model.SerializeToString(), providers=CPU)
    assert np.array_equal(again.run(None, {"x": rows(3)})[0], 2 * rows(3))
    assert [node.op_type for node in model.graph.node] == [n.op_type for n in onnx.load(model).graph.node]
    onnx.save(model, tmp_path / "saved.onnx")
    assert onnx.load(tmp_path / "saved.onnx") == model.proto


def test_a_weight_that_the_optimizer_wants_to_see_is_shown_to_it_without_a_word(capfd):
    g = Graph()
    turned = g.node("Transpose", g.weight("w", 64, 64), perm=[1, 0])
    g.node("MatMul", "x", turned, output="y")
    model = g.model([value("x", ["N", 64])], [value("y", ["N", 64])])
    (weight,) = model.graph.initializer
    wide = np.random.default_rng(0).standard_normal((2, 64)).astype(np.float32)
    tensors, expected = {"w": TensorProto()}, wide @ numpy_helper.to_array(weight).T
    tensors["w"].CopyFrom(weight)
    del model.graph.initializer[:]
    with QuantizedModel(Blueprint(model, tensors)) as shared:
        np.testing.assert_allclose(shared.run(None, {"x": wide})[0], expected, rtol=1e-4, atol=1e-4)
    assert capfd.readouterr() == ("", "")


def test_no_file_is_written_for_a_run_alone(model, tmp_path):
    model.run(None, {"x": rows(1)})
    assert not (tmp_path / "scratch").exists()


def test_no_session_is_built_for_a_file_alone(model, monkeypatch):
    monkeypatch.setattr(onnxruntime, "InferenceSession", None)
    assert onnx.load(model) == model.proto
    assert not hasattr(model, "read")


def test_close_removes_the_file_and_a_later_use_brings_it_back(model, tmp_path):
    path = Path(model)
    model.close()
    assert not path.exists()
    assert list((tmp_path / "scratch").iterdir()) == []
    assert len(onnx.load(model).graph.node) == 2
    assert model.run(None, {"x": rows(1)})[0].shape == (1, 4)


def test_a_forgotten_model_leaves_no_file(tmp_path):
    model = QuantizedModel(linear(), 1, CPU, tmp_path)
    assert Path(model).exists()
    del model
    gc.collect()
    assert list(tmp_path.iterdir()) == []


def test_two_models_in_one_directory_have_files_of_their_own(tmp_path):
    first, second = (QuantizedModel(linear(k * np.eye(4)), 1, CPU, tmp_path) for k in (1, 2))
    assert onnx.load(first) != onnx.load(second)


def test_session_has_the_threads_asked_for_and_does_not_spin(tmp_path):
    options = QuantizedModel(linear(), 3, CPU, tmp_path).get_session_options()
    assert options.intra_op_num_threads == 3
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert options.graph_optimization_level == onnxruntime.SessionOptions().graph_optimization_level


def test_saved_model_is_the_same_model(model, tmp_path):
    model.save(tmp_path / "best.onnx")
    assert onnx.load(tmp_path / "best.onnx") == model.proto


def test_a_model_that_onnxruntime_refuses_is_a_failed_trial(tmp_path):
    proto = linear()
    proto.graph.node[0].op_type = "NoSuchOp"
    with pytest.raises(TrialError, match=r"onnxruntime cannot load the model: .*NoSuchOp"):
        QuantizedModel(proto, 1, CPU, tmp_path).run(None, {"x": rows(1)})


def test_an_unknown_attribute_is_an_attribute_error(model):
    with pytest.raises(AttributeError, match="no attribute 'predict'"):
        model.predict(rows(1))


def test_a_missing_provider_is_named_with_the_nearest():
    with pytest.raises(ModelError, match=r'no execution provider "CPUExecutionProvder".*Nearest: "CPUExec'):
        check_providers(["CPUExecutionProvder"])
    check_providers(CPU)


def test_repr_tells_nodes_and_size(model):
    assert repr(model) == f"QuantizedModel(2 nodes, {model.size_bytes} bytes)"
