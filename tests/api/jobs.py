"""A small job for tests of `autotune`: model, data, evaluation, and the call with what tests leave out."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx

import disttune
from disttune.api.tuned_model import TunedModel
from disttune.config.algorithms.static import StaticQuantConfig
from disttune.config.tuning_config import TuningConfig
from tests.models import tiny_cnn

X = np.random.default_rng(0).standard_normal((8, 3, 8, 8)).astype(np.float32)
TWO = TuningConfig(
    StaticQuantConfig(per_channel=[False, True], calibration_sampling_size=16), tolerable_loss=-0.99
)
# The same as a job, whose trials run in this process: quicker, and eval_fn need not be pickled.
HERE: dict[str, Any] = {
    "calibration": {"samples": 16},
    "accuracy": {"tolerable_loss": -0.99},
    "tuning": {
        "strategy": "sequential",
        "strategy_kwargs": {"configs": [{"algorithm": "static", "per_channel": [False, True]}]},
    },
    "runtime": {"isolation": "none"},
}


def evaluate(model: Any) -> float:
    """Mean magnitude of the outputs: no sense in it, but another number for each model."""
    return float(np.abs(model.run(None, {"x": X})[0]).mean())


def feeds() -> list[dict[str, np.ndarray]]:
    return [{"x": X}, {"x": -X}]


def save_model(folder: Path) -> Path:
    path = folder / "model.onnx"
    onnx.save(tiny_cnn(), path)
    return path


def tuned(folder: Path, **changes: Any) -> TunedModel:
    """`autotune` of the model in the folder; any argument may be given."""
    arguments: dict[str, Any] = {
        "model": folder / "model.onnx",
        "tune_config": TWO,
        "eval_fn": evaluate,
        "calibration_data_reader": feeds,
        "run_directory": folder / "run",
        "log_format": "quiet",
    }
    return disttune.autotune(**{**arguments, **changes})


def metrics(model: TunedModel) -> list[float | None]:
    return [t.metric for t in model.result.trials]
