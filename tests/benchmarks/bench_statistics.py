"""The calibration pass beside onnxruntime's calibrators: seconds on one thread and on two, and memory.

    python -m tests.benchmarks.bench_statistics

Each row is a process of its own. Ours gives every statistic at once, theirs the ranges of one method. On one
thread it is processor time, which other programs hardly change; on two the time that passes.
"""

import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import ModelProto, TensorProto
from onnxruntime.quantization.calibrate import CalibraterBase, CalibrationMethod, create_calibrator

from disttune.quantize.graph import prepare
from disttune.quantize.statistics.collect import collect, tensors_of_interest
from tests.models import Graph, value

Feeds = list[dict[str, np.ndarray]]
WAYS = ("disttune", "MinMax", "Percentile", "Entropy")


def resnet20() -> tuple[ModelProto, Feeds]:
    """19 convolutions of 3 x 3 on 32 x 32 pixels; 120 images in batches of 8."""
    g = Graph()
    h = _conv(g, "x", 3, 16, 1)
    n_in = 16
    for n_out in (16, 32, 64):
        for i in range(3):
            stride = 2 if n_out > 16 and i == 0 else 1
            branch = _conv(g, _conv(g, h, n_in, n_out, stride), n_out, n_out, 1, relu=False)
            if n_in != n_out:
                h = g.node("Conv", h, g.weight(f"{branch}_s", n_out, n_in, 1, 1), strides=[stride, stride])
            h, n_in = g.node("Relu", g.node("Add", branch, h)), n_out
    h = g.node("Flatten", g.node("GlobalAveragePool", h))
    g.node("Gemm", h, g.weight("fc", 64, 10), output="y")
    random = np.random.default_rng(0)
    feeds = [{"x": random.standard_normal((8, 3, 32, 32)).astype(np.float32)} for _ in range(15)]
    return g.model([value("x", ["N", 3, 32, 32])], [value("y", ["N", 10])]), feeds


def encoder() -> tuple[ModelProto, Feeds]:
    """6 layers of width 384 with 12 heads; 128 sentences of 24 words, one at a time."""
    g = Graph()
    h = g.node("Gather", g.weight("words", 1000, 384), "ids")
    for layer in range(6):
        h = _normalized(g, h, _attention(g, h, f"{layer}"), f"{layer}a")
        up = g.node("Gelu", _linear(g, h, 384, 1536, f"{layer}up"))
        h = _normalized(g, h, _linear(g, up, 1536, 384, f"{layer}down"), f"{layer}b")
    g.node("ReduceMean", h, g.constant("axis", np.array([1])), output="y", keepdims=0)
    random = np.random.default_rng(0)
    feeds = [{"ids": random.integers(0, 1000, (1, 24))} for _ in range(128)]
    return g.model([value("ids", ["N", "T"], TensorProto.INT64)], [value("y", ["N", 384])], opset=20), feeds


MODELS: dict[str, Callable[[], tuple[ModelProto, Feeds]]] = {"resnet20": resnet20, "encoder": encoder}


def _conv(g: Graph, x: str, n_in: int, n_out: int, stride: int, relu: bool = True) -> str:
    weight = g.weight(f"w{len(g.nodes)}", n_out, n_in, 3, 3, scale=(2 / (9 * n_in)) ** 0.5)
    h = g.node(
        "Conv", x, weight, g.weight(f"b{len(g.nodes)}", n_out), pads=[1, 1, 1, 1], strides=[stride] * 2
    )
    return g.node("Relu", h) if relu else h


def _linear(g: Graph, x: str, n_in: int, n_out: int, name: str) -> str:
    weight = g.weight(f"w{name}", n_in, n_out, scale=n_in**-0.5)
    return g.node("Add", g.node("MatMul", x, weight), g.weight(f"b{name}", n_out))


def _attention(g: Graph, x: str, name: str) -> str:
    shape = g.constant(f"{name}heads", np.array([0, 0, 12, 32]))
    query, key, values = (g.node("Reshape", _linear(g, x, 384, 384, f"{name}{k}"), shape) for k in "qkv")
    query, values = (g.node("Transpose", h, perm=[0, 2, 1, 3]) for h in (query, values))
    scores = g.node("MatMul", query, g.node("Transpose", key, perm=[0, 2, 3, 1]))
    weights = g.node(
        "Softmax", g.node("Mul", scores, g.constant(f"{name}scale", np.float32(32**-0.5))), axis=-1
    )
    mixed = g.node("Transpose", g.node("MatMul", weights, values), perm=[0, 2, 1, 3])
    together = g.node("Reshape", mixed, g.constant(f"{name}width", np.array([0, 0, 384])))
    return _linear(g, together, 384, 384, f"{name}o")


def _normalized(g: Graph, x: str, y: str, name: str) -> str:
    ones = g.constant(f"{name}gamma", np.ones(384, np.float32))
    return g.node("LayerNormalization", g.node("Add", x, y), ones, g.weight(f"{name}beta", 384), axis=-1)


def measured(way: str, path: Path, feeds: Feeds, n_threads: int) -> dict[str, Any]:
    """Seconds of the pass from a file on, and how far the process grew."""
    before = _peak_mb()
    clock = time.process_time if n_threads == 1 else time.perf_counter
    started = clock()
    if way == "disttune":
        model = onnx.load(path)
        n_tensors = len(collect(model, feeds, tensors_of_interest(model), n_threads=n_threads))
    else:
        CalibraterBase.create_inference_session = _with_threads(n_threads)  # type: ignore[method-assign]
        method = CalibrationMethod[way]
        calibrator = create_calibrator(path, None, str(path.with_suffix(".augmented")), method)
        calibrator.collect_data(_Reader(iter(feeds)))
        n_tensors = len(calibrator.compute_data().data)
    return {"s": clock() - started, "mb": _peak_mb() - before, "tensors": n_tensors}


class _Reader:
    def __init__(self, feeds: Iterator[dict[str, np.ndarray]]):
        self._feeds = feeds

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._feeds, None)


def _with_threads(n_threads: int) -> Callable[[CalibraterBase], None]:
    def create_inference_session(self: CalibraterBase) -> None:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads = n_threads
        self.infer_session = onnxruntime.InferenceSession(
            self.augmented_model_path, options, providers=["CPUExecutionProvider"]
        )

    return create_inference_session


def _peak_mb() -> float:
    """Of this program; `getrusage` also knows the peak of the process that started it."""
    (line,) = (t for t in Path("/proc/self/status").read_text().splitlines() if t.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def _in_a_process(way: str, input_name: str, path: Path, n_threads: int) -> dict[str, Any]:
    command = [sys.executable, "-m", __spec__.name, way, input_name, str(path), str(n_threads)]
    said = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    found: dict[str, Any] = json.loads(said.splitlines()[-1])  # onnxruntime's calibrators print, too
    return found


def main() -> None:
    if len(sys.argv) > 1:
        way, name, path, n_threads = sys.argv[1:]
        with np.load(Path(path).with_suffix(".npz"), allow_pickle=False) as arrays:
            feeds = [{name: array} for array in arrays.values()]
        print(json.dumps(measured(way, Path(path), feeds, int(n_threads))))
        return
    print(f"{'model':10} {'threads':>7} {'way':12} {'tensors':>8} {'seconds':>8} {'of MinMax':>10} {'MB':>7}")
    for n_threads, (name, make) in itertools.product((1, 2), MODELS.items()):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "model.onnx")
            model, feeds = make()
            onnx.save(prepare(model), path)
            np.savez(path.with_suffix(".npz"), *(next(iter(feed.values())) for feed in feeds))
            rows: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
            for repeat in range(3):
                for way in WAYS if repeat == 0 and n_threads == 1 else WAYS[:2]:  # the slow ones once
                    rows[way].append(_in_a_process(way, model.graph.input[0].name, path, n_threads))
            best = {way: min(found, key=lambda row: row["s"]) for way, found in rows.items() if found}
            for way, row in best.items():
                ratio = row["s"] / best["MinMax"]["s"]
                print(
                    f"{name:10} {n_threads:7} {way:12} {row['tensors']:8} {row['s']:8.2f} {ratio:10.2f} "
                    f"{row['mb']:7.0f}"
                )


if __name__ == "__main__":
    main()
