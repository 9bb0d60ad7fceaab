import gc
import os
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

from disttune.config.errors import ModelError
from disttune.quantize.digest import model_digest, serialize
from disttune.quantize.graph import prepare, read_model
from disttune.quantize.tensor_memory import TensorMemory, in_memory, whole_model
from tests.models import (
    Graph,
    attention,
    depthwise_cnn,
    feeds,
    mlp,
    recurrent,
    tiny_cnn,
    unnamed,
    value,
    with_branches,
)

MODELS = [tiny_cnn, depthwise_cnn, mlp, attention, recurrent, unnamed, with_branches]


def outputs(model: onnx.ModelProto, inputs: list[dict[str, np.ndarray]]) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(serialize(model), providers=["CPUExecutionProvider"])
    return [session.run(None, feed)[0] for feed in inputs]


def no_inference_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let symbolic shape inference fail as it does on many transformers: unfinished."""
    name = "onnxruntime.tools.symbolic_shape_infer.SymbolicShapeInference._infer_impl"
    monkeypatch.setattr(name, lambda self, *_: 1 / 0)


@pytest.mark.parametrize("make", MODELS)
def test_a_prepared_model_computes_what_the_users_does(make):
    model = make()
    for prepared, expected in zip(
        outputs(prepare(model), feeds(model)), outputs(model, feeds(model)), strict=True
    ):
        assert np.allclose(prepared, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("make", MODELS)
def test_preparing_changes_nothing_in_the_model_given(make):
    model = make()
    prepare(model)
    assert serialize(model) == serialize(make())


def test_two_preparations_give_the_same_bytes_also_with_another_hash_seed():
    code = (
        "import hashlib; from tests.models import attention; from disttune.quantize.graph import prepare;"
        "from disttune.quantize.digest import serialize;"
        "print(hashlib.md5(serialize(prepare(attention()))).hexdigest())"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": "7"}
    other = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    here = subprocess.run(
        [sys.executable, "-c", code],
        env={**environment, "PYTHONHASHSEED": "8"},
        capture_output=True,
        text=True,
    )
    assert other.stdout == here.stdout != ""
    assert serialize(prepare(attention())) == serialize(prepare(attention()))


def test_weights_of_a_large_model_are_left_as_they_are(tmp_path):
    told: list[str] = []
    around = prepare(tiny_cnn(), told.append, directory=tmp_path, large_bytes=0)
    assert model_digest(around) == model_digest(prepare(tiny_cnn()))
    assert told[0].startswith("the model is large: 0.0 GB of weights were left as they are")
    assert list(tmp_path.iterdir()) == []


def open_shapes() -> onnx.ModelProto:
    """What its Reshape makes has any number of dimensions."""
    g = Graph()
    rows = g.node("Reshape", "x", "shape")
    g.node("Relu", rows, output="y")
    shape = helper.make_tensor_value_info("shape", onnx.TensorProto.INT64, ["R"])
    return g.model([value("x", ["N", 4]), shape], [value("y", None)])


def test_unfinished_shape_inference_is_told_and_leaves_no_file(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    expected = model_digest(prepare(open_shapes()))
    no_inference_for(monkeypatch)
    told: list[str] = []
    prepared = prepare(open_shapes(), told.append, tmp_path)
    assert told == ["symbolic shape inference was left out (ZeroDivisionError: division by zero)"]
    assert model_digest(prepared) == expected
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("make", MODELS)
def test_a_model_whose_shapes_are_known_needs_no_symbolic_inference(make, monkeypatch):
    no_inference_for(monkeypatch)
    told: list[str] = []
    prepare(make(), told.append)
    assert told == []


def test_weights_that_the_optimizer_folds_come_back_changed_and_others_as_they_were(tmp_path):
    """Against the same model with its weights in its messages, whose values onnxruntime is given whole."""
    g = Graph()
    doubled = g.node("Add", g.weight("left", 96, 96), "left", name="double", output="doubled")
    h = g.node("MatMul", "x", doubled, name="first")
    g.node("MatMul", h, g.weight("right", 96, 96), name="second", output="y")
    model = g.model([value("x", ["N", 96])], [value("y", ["N", 96])])
    onnx.save(model, tmp_path / "m.onnx")
    memory = TensorMemory()

    prepared = prepare(read_model(tmp_path / "m.onnx", memory))

    assert {t.name: in_memory(t) for t in prepared.graph.initializer} == {"doubled": False, "right": True}
    assert [n.name for n in prepared.graph.node] == ["first", "second"]
    for expected, found in zip(
        outputs(model, feeds(model)), outputs(whole_model(prepared), feeds(model)), strict=True
    ):
        assert np.allclose(found, expected, rtol=1e-5, atol=1e-4)


def test_large_weights_that_a_norm_is_folded_into_outlive_the_preparation(tmp_path):
    """They keep their names, and have other values."""
    g = Graph()
    h = g.node("Conv", "x", g.weight("w", 32, 16, 3, 3), kernel_shape=[3, 3], pads=[1] * 4)
    statistics = g.weight("gamma", 32), g.weight("beta", 32), g.weight("mean", 32)
    g.node("BatchNormalization", h, *statistics, g.constant("var", np.ones(32, "f")), output="y")
    model = g.model([value("x", ["N", 16, 8, 8])], [value("y", ["N", 32, 8, 8])])
    onnx.save(model, tmp_path / "m.onnx")
    memory = TensorMemory()

    prepared = prepare(read_model(tmp_path / "m.onnx", memory))

    gc.collect()
    assert [node.op_type for node in prepared.graph.node] == ["Conv"]
    for expected, found in zip(
        outputs(model, feeds(model)), outputs(whole_model(prepared), feeds(model)), strict=True
    ):
        assert np.allclose(found, expected, rtol=1e-5, atol=1e-4)


def test_a_model_that_onnxruntime_cannot_run_is_refused(capfd):
    g = Graph()
    g.node("NoSuchOperator", "x", output="y")
    model = g.model([value("x", ["N", 2])], [value("y", ["N", 2])])
    with pytest.raises(ModelError, match=r"onnxruntime cannot load the model: .*NoSuchOperator"):
        prepare(model)
    assert capfd.readouterr() == ("", "")


def test_an_old_opset_is_raised_and_told():
    told: list[str] = []
    g = Graph()
    h = g.node("MatMul", "x", g.weight("w", 4, 4), name="product")
    g.node("Softmax", h, name="softmax", output="y", axis=1)
    model = g.model([value("x", ["N", 4])], [value("y", ["N", 4])], opset=11)
    prepared = prepare(model, told.append)
    assert [(o.domain, o.version) for o in prepared.opset_import] == [("", 13)]
    assert told == ["the model has opset 11: raised to 13, which quantizing needs"]
    assert np.allclose(outputs(prepared, feeds(model))[0], outputs(model, feeds(model))[0])


def test_an_old_opset_that_cannot_be_raised_is_an_error():
    model = unnamed()
    model.opset_import[0].version = 1
    with pytest.raises(ModelError, match=r"has opset 1; .* Export it with opset 13 or later\.$"):
        prepare(model)


def test_initializers_that_are_inputs_too_become_constants():
    model = mlp()
    model.graph.input.extend(value(t.name, t.dims) for t in model.graph.initializer)
    model.ir_version = 3
    prepared = prepare(model)
    assert [i.name for i in prepared.graph.input] == ["x"]
    assert model_digest(prepared) == model_digest(prepare(mlp()))


def test_only_domains_in_use_are_imported():
    model = mlp()
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    assert [o.domain for o in prepare(model).opset_import] == [""]


def test_nothing_is_printed_and_the_log_is_as_before(capfd):
    prepare(depthwise_cnn())
    assert capfd.readouterr() == ("", "")


def test_temporary_files_go_where_they_are_told_and_are_removed(monkeypatch, tmp_path):
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
        prepare(mlp(), directory=tmp_path)
    assert list(tmp_path.iterdir()) == []
