"""A job folder for tests of the command line: a small model, data, an evaluation and a job file that work."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from tests.models import mlp

EVALUATION = """
import numpy as np

X = np.linspace(-1, 1, 12, dtype=np.float32).reshape(2, 6)

def evaluate(model):
    return float(model.run(None, {"x": X})[0][0, 0])

def calibration():
    for i in range(8):
        yield {"x": np.full((4, 6), i / 8, np.float32)}
"""
JOB = """
[model]
path = "model.onnx"
[calibration]
loader = "eval.py:calibration"
samples = 16
[evaluation]
function = "eval.py:evaluate"
[accuracy]
tolerable_loss = 0.99
[runtime]
isolation = "none"
"""


def write_job(folder: Path) -> Path:
    """Write everything anew; returns the job file. Trials run in the caller's process, which is quicker."""
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(mlp(), folder / "model.onnx")
    (folder / "eval.py").write_text(EVALUATION)
    (folder / "job.toml").write_text(JOB)
    samples = np.random.default_rng(0).standard_normal((16, 6)).astype(np.float32)
    np.savez(folder / "data.npz", x=samples, labels=np.arange(16) % 3)
    return folder / "job.toml"


def result(folder: Path) -> dict[str, Any]:
    """Of a finished run."""
    return json.loads((folder / "result.json").read_text())
