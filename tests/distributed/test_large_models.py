"""Models of 2 GB and more: the whole way with a small one that counts as large, and on demand a large one."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import external_data_helper

from disttune.quantize.digest import model_digest
from tests.distributed.jobs import table
from tests.distributed.launch import disttune, mpirun, run
from tests.models import Graph, value

AS_LARGE = {"DISTTUNE_LARGE_BYTES": "20000"}
WIDTH = 96
EVALUATION = f"""
import os
import numpy as np
import onnx
import onnxruntime

def feeds(seed, n):
    random = np.random.default_rng(seed)
    return [{{"x": random.standard_normal((8, {WIDTH})).astype(np.float32)}} for _ in range(n)]

def calibration():
    return feeds(0, 4)

def evaluate(model):
    outputs = [model.run(None, feed)[0] for feed in feeds(1, 2)]
    stock = onnxruntime.InferenceSession(model)
    for feed, output in zip(feeds(1, 2), outputs):
        np.testing.assert_array_equal(stock.run(None, feed)[0], output)
    onnx.checker.check_model(os.fspath(model))
    assert onnx.load(model).graph.node == model.proto.graph.node
    return 1.0 - float(np.mean(np.abs(outputs)))
"""
JOB = """
[model]
path = "{model}"
[calibration]
loader = "eval.py:calibration"
samples = 32
[evaluation]
function = "eval.py:evaluate"
[accuracy]
tolerable_loss = 0.5
[tuning]
strategy = "random"
max_trials = 5
stop_at = "budget"
[quantization]
approach = "{approach}"
"""


def layered() -> onnx.ModelProto:
    """MatMul and Gemm layers of 96 x 96 with LayerNormalization; x (N, 96) to y (N, 96)."""
    g = Graph()
    h = "x"
    for i in range(3):
        h = g.node("MatMul", h, g.weight(f"w{i}", WIDTH, WIDTH, scale=WIDTH**-0.5), name=f"up{i}")
        h = g.node("Relu", g.node("Add", h, g.weight(f"b{i}", WIDTH)))
        h = g.node("LayerNormalization", h, g.constant(f"g{i}", np.ones(WIDTH, np.float32)), axis=-1)
    last = g.weight("last", WIDTH, WIDTH), g.weight("bias", WIDTH)
    g.node("Gemm", h, *last, name="last", output="y", transB=1)
    return g.model([value("x", ["N", WIDTH])], [value("y", ["N", WIDTH])])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The same model in one file and with external data, and a job for each."""
    onnx.save(layered(), tmp_path / "plain.onnx")
    onnx.save(layered(), tmp_path / "large.onnx", save_as_external_data=True, location="weights.bin")
    (tmp_path / "eval.py").write_text(EVALUATION)
    return tmp_path


def job(folder: Path, model: str, approach: str, more: str = "") -> Path:
    path = folder / f"{Path(model).stem}-{approach}.toml"
    path.write_text(JOB.format(model=model, approach=approach) + more)
    return path


@pytest.mark.parametrize("approach", ["static", "dynamic"])
def test_a_large_model_has_the_trials_of_the_same_model_in_one_file(folder: Path, approach: str):
    plain = run(disttune("tune", job(folder, "plain.onnx", approach), "-o", folder / "plain"))
    large = run(mpirun(2, "tune", job(folder, "large.onnx", approach), "-o", folder / "large"), AS_LARGE)

    assert (plain.code, large.code) == (0, 0), large.text
    assert "the model is large" in large.text
    rest = ("seconds", "rank", "size_bytes")  # a file also says by what its model was made
    assert table(folder / "large", without=rest) == table(folder / "plain", without=rest)
    best, expected = (onnx.load(folder / name / "best.onnx") for name in ("large", "plain"))
    assert model_digest(best) == model_digest(expected)
    kept = onnx.load(folder / "large" / "best.onnx", load_external_data=False).graph.initializer
    assert sum(map(external_data_helper.uses_external_data, kept)) == 4
