"""Models of 2 GB and more: the whole way with a small one that counts as large, and on demand a large one."""

import contextlib
import subprocess
import time
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import psutil
import pytest
from onnx import external_data_helper

from disttune.quantize.digest import model_digest
from disttune.runtime.records import CommitRecord, ResultRecord
from tests.distributed.jobs import records, table
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


def test_shared_memory_is_measured_again_with_packed_weights(folder: Path):
    private = run(disttune("tune", job(folder, "plain.onnx", "static"), "-o", folder / "private"))
    more = '[runtime]\nmemory = "shared"\n'
    shared = run(mpirun(2, "tune", job(folder, "plain.onnx", "static", more), "-o", folder / "shared"))

    assert (private.code, shared.code) == (0, 0), shared.text
    assert table(folder / "shared") == table(folder / "private")
    best = max(r.trial for r in records(folder / "shared", CommitRecord) if r.best == r.trial)
    measured = [r.packed for r in records(folder / "shared", ResultRecord) if r.trial == best]
    assert measured == [False, True]


LARGE_WIDTH, LARGE_LAYERS = 10_240, 8
LARGE_JOB = """
[model]
path = "model.onnx"
[calibration]
loader = "eval.py:calibration"
samples = 4
[evaluation]
function = "eval.py:evaluate"
[accuracy]
criterion = "absolute"
tolerable_loss = 10
[tuning]
strategy = "random"
max_trials = 4
stop_at = "budget"
[runtime]
memory = "shared"
"""
LARGE_DYNAMIC = """
[quantization]
approach = "dynamic"
[quantization.op_types.MatMul]
weight = { granularity = ["per_channel"] }
"""
LARGE_RTN = """
[quantization]
approach = "weight_only"
[quantization.op_types.MatMul.weight]
dtype = "uint4"
granularity = "per_group"
group_size = 32
method = "rtn"
"""
LARGE_EVALUATION = f"""
import numpy as np
def feeds(seed, n):
    random = np.random.default_rng(seed)
    return [{{"x": random.standard_normal((2, {LARGE_WIDTH})).astype(np.float32)}} for _ in range(n)]
def calibration():
    return feeds(0, 2)
def evaluate(model):
    return float(np.mean([np.abs(model.run(None, feed)[0]).mean() for feed in feeds(1, 2)]))
"""


def write_large(folder: Path, quantization: str) -> int:
    """A model of 3.4 GB: a chain of MatMuls; returns the bytes of its weights."""
    random = np.random.default_rng(0)
    shape = (LARGE_WIDTH, LARGE_WIDTH)
    nodes, tensors, h = [], [], "x"
    with (folder / "weights.bin").open("wb") as file:
        for i in range(LARGE_LAYERS):
            tensor = onnx.TensorProto(name=f"w{i}", data_type=onnx.TensorProto.FLOAT, dims=shape)
            tensor.data_location = onnx.TensorProto.EXTERNAL
            for key, text in (("location", "weights.bin"), ("offset", str(file.tell()))):
                tensor.external_data.add(key=key, value=text)
            file.write((random.standard_normal(shape, np.float32) * np.float32(LARGE_WIDTH**-0.5)).data)
            output = "y" if i == LARGE_LAYERS - 1 else f"h{i}"
            nodes.append(onnx.helper.make_node("MatMul", [h, tensor.name], [output], f"layer{i}"))
            tensors.append(tensor)
            h = output
        n_bytes = file.tell()
    types = [value("x", ["N", LARGE_WIDTH])], [value("y", ["N", LARGE_WIDTH])]
    graph = onnx.helper.make_graph(nodes, "large", *types, tensors)
    opsets = [onnx.helper.make_opsetid("", 17)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8), folder / "model.onnx")
    (folder / "eval.py").write_text(LARGE_EVALUATION)
    (folder / "job.toml").write_text(LARGE_JOB + quantization)
    return n_bytes


def pss_of(processes: list[psutil.Process]) -> Counter[str]:
    """GB of all together, shared pages counted once: in all ("Pss"), and by kind."""
    total: Counter[str] = Counter()
    for process in processes:
        with contextlib.suppress(OSError, psutil.Error):
            for line in Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss"):
                    total[line.split(":")[0]] += int(line.split()[1]) * 1024 / 1e9
    return total


@pytest.mark.on_demand
@pytest.mark.parametrize(  # codes are a quarter and a seventh; those of the best are packed once more
    ("quantization", "most"), [(LARGE_DYNAMIC, 1.75), (LARGE_RTN, 1.5)], ids=["dynamic", "rtn"]
)
def test_a_model_of_3_gb_is_tuned_on_two_ranks_in_little_more_than_its_size(
    tmp_path: Path, quantization: str, most: float
):
    n_bytes = write_large(tmp_path, quantization)
    command = mpirun(2, "tune", tmp_path / "job.toml", "-o", tmp_path / "run")
    peak, when, started_s = Counter({"Pss": 0.0}), 0.0, time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as tuning:
        own = psutil.Process(tuning.pid)
        while tuning.poll() is None:
            total = pss_of([own, *own.children(recursive=True)])
            if total["Pss"] > peak["Pss"]:
                peak, when = total, time.monotonic() - started_s
            time.sleep(0.2)
        assert tuning.stdout is not None
        text = tuning.stdout.read()

    print(text)
    print(f"peak in GB after {when:.0f} s, weights {n_bytes / 1e9:.2f}: {dict(peak)}")
    assert tuning.returncode == 0
    assert {row["status"] for row in table(tmp_path / "run")} == {"ok"}
    onnx.checker.check_model(tmp_path / "run" / "best.onnx")
    assert peak["Pss"] < most * n_bytes / 1e9
