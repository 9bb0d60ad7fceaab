"""What spoils a job that works: each takes its folder and breaks one thing in it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from tests.models import Graph, mlp, value

Spoil = Callable[[Path], None]
ROWS = np.zeros((4, 6), np.float32)
EVALUATORS = """
def raises(model): raise ValueError("no\\nsuch thing")
def none(model): pass
def text(model): return "0.5"
def nan(model): return float("nan")
def leaves(model): raise SystemExit(3)
def two(model, data): return 1.0
def late(model):
    import not_there
number = 3
def wrong_name(): yield {"X": np.zeros((4, 6), np.float32)}
def wrong_shape(): yield {"x": np.zeros((4, 7), np.float32)}
def wrong_dtype(): yield {"x": np.zeros((4, 6), np.int64)}
def with_nan():
    yield {"x": np.zeros((4, 6), np.float32)}
    yield {"x": np.array([[0] * 6, [np.nan] * 6], np.float32)}
def empty(): return []
def nothing(): return None
def no_feed(): return {"x": np.zeros((4, 6), np.float32)}
def failing():
    yield {"x": np.zeros((4, 6), np.float32)}
    raise RuntimeError("the disk is gone")
def crashes(*model):
    import ctypes
    ctypes.string_at(0)
def exits(model):
    import os
    os._exit(7)
"""


def change(old: str, new: str) -> Spoil:
    """Of the job file."""

    def spoil(folder: Path) -> None:
        text = (folder / "job.toml").read_text()
        assert old in text
        (folder / "job.toml").write_text(text.replace(old, new))

    return spoil


def add(text: str) -> Spoil:
    """To the job file."""
    return change("[runtime]", f"{text}\n[runtime]")


def function(name: str) -> Spoil:
    """As the evaluation."""
    return change("eval.py:evaluate", f"eval.py:{name}")


def loader(name: str) -> Spoil:
    """Of calibration data."""
    return change("eval.py:calibration", f"eval.py:{name}")


def content(name: str, data: bytes) -> Spoil:
    return lambda folder: (folder / name).write_bytes(data) and None


def without(name: str) -> Spoil:
    return lambda folder: (folder / name).unlink()


def model(make: Callable[[], onnx.ModelProto]) -> Spoil:
    return lambda folder: onnx.save(make(), folder / "model.onnx")


def calibration(**arrays: Any) -> Spoil:
    """Data instead of a loader."""
    return _with_data('loader = "eval.py:calibration"', 'data = "data.npz"', arrays)


def evaluation(**arrays: Any) -> Spoil:
    """Data and a metric instead of a function."""
    return _with_data('function = "eval.py:evaluate"', 'metric = "top1"\ndata = "data.npz"', arrays)


def _with_data(old: str, new: str, arrays: dict[str, Any]) -> Spoil:
    def spoil(folder: Path) -> None:
        change(old, new)(folder)
        np.savez(folder / "data.npz", **arrays)

    return spoil


def both(*spoils: Spoil) -> Spoil:
    def spoil(folder: Path) -> None:
        for one in spoils:
            one(folder)

    return spoil


def half() -> onnx.ModelProto:
    proto = mlp()
    for weight in proto.graph.initializer:
        weight.CopyFrom(
            numpy_helper.from_array(numpy_helper.to_array(weight).astype(np.float16), weight.name)
        )
    return proto


def quantized() -> onnx.ModelProto:
    graph = Graph()
    scale, zero = graph.constant("s", np.float32(1)), graph.constant("z", np.uint8(0))
    codes = graph.node("QuantizeLinear", "x", scale, zero, name="q")
    graph.node("DequantizeLinear", codes, scale, zero, name="dq", output="y")
    return graph.model([value("x", ["N", 6])], [value("y", ["N", 6])])


def nothing_to_quantize() -> onnx.ModelProto:
    graph = Graph()
    graph.node("Relu", "x", name="relu", output="y")
    return graph.model([value("x", ["N", 6])], [value("y", ["N", 6])])


def external_data_missing(folder: Path) -> None:
    onnx.save(mlp(), folder / "model.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    (folder / "w.bin").unlink()


def cut_short(folder: Path) -> None:
    """Calibration data of which the end is missing."""
    calibration(x=ROWS)(folder)
    (folder / "data.npz").write_bytes((folder / "data.npz").read_bytes()[:200])
