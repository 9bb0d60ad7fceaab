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
from disttune.quantize.graph import prepare
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
    name = "onnxruntime.tools.symbolic_shape_infer.SymbolicShapeInference._update_output_from_vi"
    monkeypatch.setattr(name, lambda self: 1 / 0)


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


def test_a_large_model_goes_through_files_with_external_data(tmp_path):
    through_files = prepare(tiny_cnn(), directory=tmp_path, large_bytes=0)
    assert model_digest(through_files) == model_digest(prepare(tiny_cnn()))
    assert list(tmp_path.iterdir()) == []


def test_unfinished_shape_inference_is_told_and_leaves_no_file(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    no_inference_for(monkeypatch)
    told: list[str] = []
    prepared = prepare(attention(), told.append, tmp_path)
    assert told == ["symbolic shape inference was left out (ZeroDivisionError: division by zero)"]
    assert model_digest(prepared) == model_digest(prepare(attention()))
    assert list(tmp_path.iterdir()) == []


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
