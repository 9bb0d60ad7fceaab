"""Latency of int8 models: ours over stock `quantize_static`'s with the same settings, runs interleaved.

    python -m tests.benchmarks.bench_latency [FOLDER ...]

Folders as in `bench_engine`. Settings: what a job's default candidate is (Conv, MatMul and Gemm, uint8
activations, int8 weights per channel); the same per tensor; every op type that stock knows. Stock gets
the user's model after its own `quant_pre_process`, ours what `prepare` makes of it. Times are of one thread's
processor. Pairs of runs take turns in who is first; the ratio is the median over pairs of stock's time over
ours, so less than 1 is slower than stock; in brackets the middle half of the ratios.
"""

import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import ModelProto
from onnxruntime.quantization import QuantType, quantize_static
from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry
from onnxruntime.quantization.shape_inference import quant_pre_process

from disttune.config.schemes import FLOAT32, OpConfig, Scheme
from disttune.quantize.digest import serialize
from disttune.quantize.engine import EngineSettings, find_engine
from disttune.quantize.quiet import quiet_onnxruntime
from disttune.space.candidate import Candidate
from disttune.space.summary import OpSummary
from tests.benchmarks.bench_engine import Subject, _Reader, main_folders, read, session

N_ROUNDS = 5
SECONDS = 12.0  # of pairs for each setting
LEAST_S = 0.02  # of a timed run: short ones are repeated
TYPES = ("Conv", "MatMul", "Gemm")
ALL_TYPES = (*TYPES, *sorted({*QDQRegistry, *QLinearOpsRegistry}.difference(TYPES)))


@dataclass(frozen=True)
class Setting:
    name: str
    placement: str
    per_channel: bool
    types: tuple[str, ...]

    def config(self, op: OpSummary) -> OpConfig:
        weight = None
        if op.weight and op.op_type in TYPES:
            weight = Scheme("int8", True, "per_channel" if self.per_channel else "per_tensor")
        elif op.weight:  # tables of Gather: stock gives them the codes of activations
            weight = Scheme("uint8", False)
        return OpConfig("static", weight, Scheme("uint8", symmetric=False))


SETTINGS = (
    Setting("default candidate", "speed", True, TYPES),
    Setting("per tensor", "speed", False, TYPES),
    Setting("all op types", "all", True, ALL_TYPES),
)


def ours(subject: Subject, setting: Setting) -> ModelProto:
    """The model of the fast engine."""
    settings = EngineSettings(placement=setting.placement)
    engine = find_engine("fast")(subject.prepared, subject.summary, subject.feeds, settings)
    configs = {
        op.name: setting.config(op) if op.op_type in setting.types and op.has_float_data else FLOAT32
        for op in subject.summary.ops
    }
    return engine.build(Candidate.of(configs))


def stock(subject: Subject, setting: Setting, original: Path) -> ModelProto:
    """What onnxruntime's own tools make of the user's model."""
    with tempfile.TemporaryDirectory() as name, quiet_onnxruntime():
        source, target = Path(name) / "model.onnx", Path(name) / "quantized.onnx"
        quant_pre_process(original, source, skip_symbolic_shape=True)
        quantize_static(
            source,
            target,
            _Reader(subject.feeds),
            per_channel=setting.per_channel,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=list(setting.types),
        )
        return onnx.load(target)


def _seconds(run: onnxruntime.InferenceSession, feeds: Sequence[Mapping[str, np.ndarray]], n: int) -> float:
    started = time.thread_time()  # of the processor: others may be at work on this machine
    for i in range(n):
        run.run(None, dict(feeds[i % len(feeds)]))
    return time.thread_time() - started


def paired(a: ModelProto, b: ModelProto, subject: Subject) -> list[float]:
    """Time of the second over time of the first, pair by pair.

    Half of the pairs have sessions that were made in the other order: of two sessions of one model the first
    one made is some percent faster or slower than the other for as long as both live.
    """
    feeds, ratios = subject.feeds[:1], list[float]()
    for turned in (False, True) * 2:
        made = {i: session(serialize((a, b)[i])) for i in ((1, 0) if turned else (0, 1))}
        once = min(_seconds(made[0], feeds, 1) for _ in range(5))
        n, n_before = max(1, round(LEAST_S / once)), len(ratios)
        ends = time.perf_counter() + SECONDS / 4
        while time.perf_counter() < ends or len(ratios) - n_before < N_ROUNDS:
            order = (0, 1) if len(ratios) % 2 else (1, 0)
            spent = {i: _seconds(made[i], feeds, n) for i in order}
            ratios.append(spent[1] / spent[0])
    return ratios


def op_counts(model: ModelProto) -> Counter[str]:
    """What onnxruntime makes of a model."""
    with tempfile.TemporaryDirectory() as name:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.optimized_model_filepath = f"{name}/optimized.onnx"
        onnxruntime.InferenceSession(serialize(model), options, providers=["CPUExecutionProvider"])
        return Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)


def shown(ratios: Sequence[float]) -> str:
    first, middle, last = statistics.quantiles(ratios, n=4)
    return f"{middle:.3f} ({first:.3f} to {last:.3f})"


def main() -> None:
    print(f"{'model':28}{'setting':20}{'stock / ours':26}{'ours / float':26}")
    for folder in main_folders():
        subject = read(folder)
        for setting in SETTINGS:
            mine, theirs = ours(subject, setting), stock(subject, setting, folder / "model.onnx")
            against_stock = shown(paired(mine, theirs, subject))
            same = " same graph" if op_counts(mine) == op_counts(theirs) else ""
            against_float = shown(paired(subject.prepared, mine, subject))
            print(f"{subject.name:28}{setting.name:20}{against_stock:26}{against_float:26}{same}")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
