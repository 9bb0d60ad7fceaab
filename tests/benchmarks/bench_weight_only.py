"""Weights alone: algorithm x bits x group on whole models: metric, size, seconds to build.

python -m tests.benchmarks.bench_weight_only FOLDER [FOLDER ...]

A folder holds model.onnx and eval.py with `calibration()` (yields feeds) and `evaluate(session)`. All MatMul
and Gemm are quantized, as MatMulNBits with float32 activations; 64 samples. Seconds are of one process with
one thread; Gram matrices that an earlier row has measured are there already.
"""

import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import onnxruntime

from disttune.config.errors import TrialError
from disttune.config.schemes import FLOAT32, OpConfig, Scheme, parse_scheme_method
from disttune.quantize.digest import serialize
from disttune.quantize.engine import EngineSettings
from disttune.quantize.fast import FastEngine
from disttune.quantize.graph import prepare, read_model
from disttune.quantize.summary import summarize
from disttune.space.candidate import Candidate
from tests.benchmarks.bench_engine import first_samples, load_eval

N_SAMPLES = 64
METHODS = (
    "rtn",
    "rtn:mse=true",
    "k_quant",
    "hqq",
    "hqq:float_zero_point=true",
    "awq:sequential=false",
    "gptq:sequential=false",
    "gptq:sequential=false,act_order=true",
    "gptq:sequential=false,flip=true",
    "gptq",
    "gptq:flip=true",
    "flip",
)
SETTINGS = (
    ("uint4", False, 32),
    ("uint4", False, 128),
    ("int4", True, 32),
    ("int4", True, 128),
    ("uint3", False, 32),
)


def schemes() -> Iterator[tuple[str, Scheme]]:
    for dtype, symmetric, size in SETTINGS:
        for text in METHODS:
            method, parameter, options = parse_scheme_method(text)
            yield text, Scheme(dtype, symmetric, "per_group", size, method, parameter, options)


def main(folders: list[str]) -> None:
    for folder in map(Path, folders):
        module = load_eval(folder)
        original = read_model(folder / "model.onnx")
        prepared = prepare(original)
        summary = summarize(prepared, original)
        feeds = first_samples(module.calibration(), N_SAMPLES)
        engine = FastEngine(prepared, summary, feeds, EngineSettings(weight_only_format="matmulnbits"))
        size = len(serialize(prepared))
        print(f"{folder.name}: float {_metric(module, serialize(prepared)):.5g}, {size / 1e6:.2f} MB")
        for text, scheme in schemes():
            start = time.perf_counter()
            try:
                ops = {
                    op.name: OpConfig("weight_only", scheme)
                    if op.weight and op.op_type in ("MatMul", "Gemm")
                    else FLOAT32
                    for op in summary.ops
                }
                made = serialize(engine.build(Candidate.of(ops)))
            except TrialError as error:
                print(f"{scheme.dtype:6} g{scheme.group_size:<4} {text:38} {error}")
                continue
            seconds = time.perf_counter() - start
            metric = _metric(module, made)
            print(
                f"{scheme.dtype:6} g{scheme.group_size:<4} {text:38} {metric:9.5g}  {len(made) / 1e6:7.2f} MB"
                f" {len(made) / size:5.0%}  {seconds:6.1f} s",
                flush=True,
            )


def _metric(module: object, model: bytes) -> float:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    metric = float(module.evaluate(session))  # type: ignore[attr-defined]
    assert math.isfinite(metric)
    return metric


if __name__ == "__main__":
    main(sys.argv[1:])
