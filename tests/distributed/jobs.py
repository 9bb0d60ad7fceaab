"""A small job in a folder: four MatMuls with two options each, and an evaluation that may misbehave.

The evaluation tells a trial by its model: with strategy "exhaustive" the four MatMuls count up in binary
(per channel is 1, the last one is the lowest digit), so that trial n is number n.
"""

import csv
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np
import onnx
import onnxruntime

from disttune.runtime.journal import read_journal
from disttune.runtime.records import Record
from tests.models import Graph, value

R = TypeVar("R", bound=Record)
N_OPS = 4
EVALUATION = '''\
import os
import sys
import time
from pathlib import Path
from typing import TypeVar

import numpy as np
from onnx import numpy_helper

FOLDER = Path(__file__).parent


def number_of(model):
    """The number of the trial; -1 for the float model."""
    scales = {t.name[:2]: numpy_helper.to_array(t).size for t in model.proto.graph.initializer
              if t.name.startswith("w") and t.name.endswith("_scale")}
    return int("".join(str(int(scales[k] > 1)) for k in sorted(scales)), 2) if scales else -1


def evaluate(model):
    n = number_of(model)
    data = np.load(FOLDER / "data.npz")
BODY
    return metric(model, data)


def metric(model, data):
    return 1.0 - float(np.abs(model.run(None, {"x": data["x"]})[0] - data["y"]).mean())
'''
JOB = """\
[model]
path = "model.onnx"
[calibration]
data = "calibration.npz"
samples = 32
[evaluation]
function = "eval.py:evaluate"
[accuracy]
criterion = "absolute"
tolerable_loss = {tolerable_loss}
[tuning]
{tuning}
[quantization]
{quantization}
[quantization.op_types.MatMul]
weight = {{ granularity = ["per_tensor", "per_channel"] }}
activation = {{ method = ["minmax"] }}
"""


def make_job(
    folder: Path,
    body: str = "",
    tolerable_loss: float = 0.0,
    quantization: str = 'approach = "static"',
    n_ops: int = N_OPS,
    **tuning: object,
) -> Path:
    """Write model, data, code and job file; returns the job file.

    Args:
        folder: made when missing.
        body: lines of the evaluation, with `n`, the trial's number, `model` and `data` at hand.
        tolerable_loss: 0 is never met.
        n_ops: MatMuls of the model; there are 2**n_ops candidates.
        tuning: keys of the section; default: 12 trials in order.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model = chain(n_ops)
    onnx.save_model(model, folder / "model.onnx")
    random = np.random.default_rng(0)
    np.savez(folder / "calibration.npz", x=random.standard_normal((32, 8)).astype(np.float32))
    x = random.standard_normal((64, 8)).astype(np.float32)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    np.savez(folder / "data.npz", x=x, y=session.run(None, {"x": x})[0])
    write_evaluation(folder, body)
    keys = {"strategy": "exhaustive", "max_trials": 12, "stop_at": "budget"} | tuning
    lines = "\n".join(f"{key} = {_toml(v)}" for key, v in keys.items())
    path = folder / "job.toml"
    path.write_text(JOB.format(tolerable_loss=tolerable_loss, tuning=lines, quantization=quantization))
    return path


def write_evaluation(folder: Path, body: str = "") -> None:
    (folder / "eval.py").write_text(EVALUATION.replace("BODY\n", textwrap.indent(body, "    ") + "\n"))


def chain(n_ops: int = N_OPS) -> onnx.ModelProto:
    """fc0 - tanh - fc1 ... (fc3); x (N, 8) to y (N, 8); the channels of each weight differ in scale."""
    g = Graph(11)
    h = "x"
    for i in range(n_ops):
        weight = g.random.standard_normal((8, 8)) * np.geomspace(0.05, 1.0, 8)
        g.constant(f"w{i}", weight.astype(np.float32))
        last = i == n_ops - 1
        h = g.node("MatMul", h, f"w{i}", name=f"fc{i}", output="y" if last else "")
        h = h if last else g.node("Tanh", h, name=f"tanh{i}")
    return g.model([value("x", ["N", 8])], [value("y", ["N", 8])])


def table(run_directory: Path, without: tuple[str, ...] = ("seconds", "rank")) -> list[dict[str, str]]:
    """The trial table without what may differ between two runs of a job."""
    return rows((run_directory / "trials.csv").read_text(), without)


def rows(text: str, without: tuple[str, ...] = ("seconds", "rank")) -> list[dict[str, str]]:
    """The lines of a trials.csv by column."""
    return [{k: v for k, v in row.items() if k not in without} for row in csv.DictReader(text.splitlines())]


def records(run_directory: Path, kind: type[R]) -> list[R]:
    """What the journal says, of this kind; reading it checks all of it."""
    return [r for r in read_journal(run_directory / "journal.jsonl").records if isinstance(r, kind)]


def _toml(v: object) -> str:
    if isinstance(v, Mapping):
        return "{" + ", ".join(f"{k} = {_toml(x)}" for k, x in v.items()) + "}"
    if isinstance(v, list):
        return "[" + ", ".join(map(_toml, v)) + "]"
    return str(v).lower() if isinstance(v, bool) else repr(v).replace("'", '"')
