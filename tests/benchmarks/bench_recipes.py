"""Recipes on real models: the metric with int8 weights per tensor and per channel, and seconds to build.

python -m tests.benchmarks.bench_recipes [FOLDER ...]

Folders are those of bench_engine, with evaluation.npz (inputs and `labels`) or eval.py with
`evaluate(session)` for the metric. Without one: the examples of the package. Conv, MatMul and Gemm are
quantized statically, uint8 activations, minmax, 128 samples. Seconds are those of the first candidate of
its kind, statistics included.
"""

import importlib.util
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
from onnx import ModelProto

import disttune.examples
from disttune.config.schemes import FLOAT32, OpConfig, Scheme
from disttune.quantize.digest import serialize
from disttune.quantize.engine import EngineSettings, find_engine
from disttune.space.candidate import Candidate
from tests.benchmarks.bench_engine import TYPES, Subject, read

RECIPES: dict[str, dict[str, bool | float | str]] = {
    "none": {},
    "CLE": {"cross_layer_equalization": True},
    "CLE, bias absorbed": {"cross_layer_equalization": True, "cross_layer_equalization_absorb_bias": True},
    "SmoothQuant 0.5": {"smooth_quant": True},
    "SmoothQuant auto": {"smooth_quant": True, "smooth_quant_alpha": "auto"},
    "weight correction": {"weight_correction": True},
    "fast bias correction": {"fast_bias_correction": True},
    "bias correction": {"bias_correction": True},
}


def metric_of(folder: Path) -> Callable[[ModelProto], float]:
    if (folder / "evaluation.npz").exists():
        data = dict(np.load(folder / "evaluation.npz", allow_pickle=False))
        labels = data.pop("labels")

        def top1(model: ModelProto) -> float:
            session = onnxruntime.InferenceSession(serialize(model), providers=["CPUExecutionProvider"])
            return float((session.run(None, data)[0].argmax(axis=1) == labels).mean())

        return top1
    spec = importlib.util.spec_from_file_location(f"metric_of_{folder.name}", folder / "eval.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return lambda model: float(
        module.evaluate(onnxruntime.InferenceSession(serialize(model), providers=["CPUExecutionProvider"]))
    )


def candidate(subject: Subject, granularity: str, recipes: dict[str, bool | float | str]) -> Candidate:
    weight, activation = Scheme("int8", True, granularity), Scheme("uint8", False)
    ops = {
        op.name: OpConfig("static", weight if op.weight else None, activation)
        if op.op_type in TYPES
        else FLOAT32
        for op in subject.summary.ops
    }
    return Candidate.of(ops, recipes)


def main(arguments: list[str]) -> None:
    examples = Path(next(iter(disttune.examples.__path__)))
    folders = [Path(a) for a in arguments] or [examples / "digits_cnn", examples / "digits_transformer"]
    for folder in folders:
        subject, metric = read(folder), metric_of(folder)
        print(f"\n{subject.name}: float {metric(subject.prepared):.4f}\n")
        print("| recipe | per tensor | seconds | per channel | seconds |\n| --- | --- | --- | --- | --- |")
        for name, recipes in RECIPES.items():
            cells = [name]
            for granularity in ("per_tensor", "per_channel"):
                engine = find_engine("fast")(
                    subject.prepared, subject.summary, subject.feeds, EngineSettings()
                )
                started = time.perf_counter()
                model = engine.build(candidate(subject, granularity, recipes))
                spent = time.perf_counter() - started
                cells += [f"{metric(model):.4f}", f"{spent:.2f}"]
            print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
