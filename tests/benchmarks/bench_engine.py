"""One trial without its evaluation: the fast engine, the reference engine and stock `quantize_static`.

python -m tests.benchmarks.bench_engine [FOLDER ...]

A folder holds model.onnx, and calibration.npz (an array for each input) or eval.py with `calibration()`
(yields feeds). Without one: the examples of the package. Conv, MatMul and Gemm are quantized, int8 weights
per channel, uint8 activations, 128 samples. All times are of this machine; look at the ratios.
"""

import importlib.util
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import onnxruntime
from onnx import ModelProto
from onnxruntime.quantization import CalibrationMethod, QuantType, quantize_static

import disttune.examples
from disttune.config.schemes import FLOAT32, OpConfig, Scheme
from disttune.quantize.digest import model_digest, serialize
from disttune.quantize.engine import EngineSettings, find_engine
from disttune.quantize.graph import prepare, read_model
from disttune.quantize.quiet import quiet_onnxruntime
from disttune.quantize.shared_tensors import SharedTensors
from disttune.quantize.summary import summarize
from disttune.space.candidate import Candidate
from disttune.space.summary import ModelSummary

N_SAMPLES = 128
N_TRIALS = 20
TYPES = ("Conv", "MatMul", "Gemm")
METHODS = {"minmax": CalibrationMethod.MinMax, "entropy": CalibrationMethod.Entropy}
Feeds = list[dict[str, np.ndarray]]


@dataclass
class Subject:
    name: str
    prepared: ModelProto
    summary: ModelSummary
    feeds: Feeds

    def config(self, method: str) -> dict[str, OpConfig]:
        weight, activation = Scheme("int8", True, "per_channel"), Scheme("uint8", False, method=method)
        return {
            op.name: OpConfig("static", weight if op.weight else None, activation)
            for op in self.summary.ops
            if op.op_type in TYPES
        }

    def candidate(self, method: str, *in_float: str) -> Candidate:
        configs = self.config(method)
        ops = {op.name: configs.get(op.name, FLOAT32) for op in self.summary.ops}
        return Candidate.of({**ops, **dict.fromkeys(in_float, FLOAT32)})

    def candidates(self, method: str) -> Iterator[Candidate]:
        """All quantized but one or two: what a search tries."""
        ops = list(self.config(method))
        pairs = itertools.chain(((op,) for op in ops), itertools.combinations(ops, 2))
        return (self.candidate(method, *pair) for pair in pairs)


def read(folder: Path) -> Subject:
    original = read_model(folder / "model.onnx")
    prepared = prepare(original)
    return Subject(folder.name, prepared, summarize(prepared, original), first_samples(_feeds(folder)))


def _feeds(folder: Path) -> Iterator[dict[str, np.ndarray]]:
    if (folder / "calibration.npz").exists():
        with np.load(folder / "calibration.npz", allow_pickle=False) as arrays:
            whole = dict(arrays)
        n = len(next(iter(whole.values())))
        yield from ({name: array[i : i + 16] for name, array in whole.items()} for i in range(0, n, 16))
        return
    yield from load_eval(folder).calibration()


def load_eval(folder: Path) -> ModuleType:
    """The folder's eval.py."""
    spec = importlib.util.spec_from_file_location(f"eval_of_{folder.name}", folder / "eval.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def first_samples(feeds: Iterator[dict[str, np.ndarray]], n: int = N_SAMPLES) -> Feeds:
    found: Feeds = []
    while sum(len(next(iter(feed.values()))) for feed in found) < n:
        if (feed := next(feeds, None)) is None:
            break
        found.append(feed)
    return found


class _Reader:
    def __init__(self, feeds: Feeds):
        self._feeds = iter(feeds)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._feeds, None)


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def stock(subject: Subject, method: str) -> tuple[float, ModelProto]:
    """Seconds of `quantize_static` and its model."""
    feeds = subject.feeds if method == "minmax" else _padded(subject.feeds)
    with tempfile.TemporaryDirectory() as name, quiet_onnxruntime():
        source, target = Path(name) / "model.onnx", Path(name) / "quantized.onnx"
        onnx.save_model(subject.prepared, source)
        spent = seconds(
            lambda: quantize_static(
                source,
                target,
                _Reader(feeds),
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                nodes_to_quantize=list(subject.config(method)),
                calibrate_method=METHODS[method],
            )
        )
        return spent, onnx.load(target)


def _padded(feeds: Feeds) -> Feeds:
    """The same feeds at one length: the histogram calibrators cannot stack others."""
    longest = {name: max(feed[name].shape[1:] for feed in feeds) for name in feeds[0]}

    def pad(name: str, array: np.ndarray) -> np.ndarray:
        missing = (0, *(a - b for a, b in zip(longest[name], array.shape[1:], strict=True)))
        return np.pad(array, [(0, n) for n in missing])

    return [{name: pad(name, array) for name, array in feed.items()} for feed in feeds]


def session(data: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def measure(subject: Subject) -> dict[str, str]:
    """One row of the table."""
    made = {method: stock(subject, method) for method in METHODS}
    reference = find_engine("reference")(subject.prepared, subject.summary, subject.feeds, EngineSettings())
    fast = find_engine("fast")(subject.prepared, subject.summary, subject.feeds, EngineSettings())
    calibration = seconds(lambda: fast.build(subject.candidate("minmax")))
    same = model_digest(made["minmax"][1]) == model_digest(fast.build(subject.candidate("minmax")))
    reference.build(subject.candidate("minmax"))
    slow = [
        seconds(lambda c=c: reference.build(c)) for c in itertools.islice(subject.candidates("minmax"), 3)
    ]
    per_trial: dict[str, list[float]] = {}
    for method in METHODS:
        fast.build(subject.candidate(method))
        chosen = itertools.islice(subject.candidates(method), N_TRIALS)
        per_trial[method] = [seconds(lambda c=c: fast.build(c)) for c in chosen]
    chosen = itertools.islice(subject.candidates("minmax"), N_TRIALS)
    shared = SharedTensors()
    blueprints = [seconds(lambda c=c: shared.digest(fast.blueprint(c))) for c in chosen]
    data = serialize(fast.build(subject.candidate("minmax")))
    opened = statistics.median(seconds(lambda: session(data)) for _ in range(7))
    trial = statistics.median(per_trial["minmax"])
    entropy_trial = statistics.median(per_trial["entropy"])
    return {
        "model": subject.name,
        "MB": f"{subject.prepared.ByteSize() / 1e6:.1f}",
        "stock minmax s": f"{made['minmax'][0]:.2f}",
        "stock entropy s": f"{made['entropy'][0]:.2f}",
        "calibration once s": f"{calibration:.2f}",
        "reference ms": f"{1e3 * statistics.median(slow):.0f}",
        "fast ms": f"{1e3 * trial:.2f}",
        "fast entropy ms": f"{1e3 * entropy_trial:.2f}",
        "blueprint, digest ms": f"{1e3 * statistics.median(blueprints):.2f}",
        "session ms": f"{1e3 * opened:.1f}",
        "minmax/fast": f"{made['minmax'][0] / trial:.0f}",
        "entropy/fast": f"{made['entropy'][0] / entropy_trial:.0f}",
        "minmax/(fast+session)": f"{made['minmax'][0] / (trial + opened):.0f}",
        "(fast+session)/session": f"{(trial + opened) / opened:.2f}",
        "same model": str(same),
    }


def main_folders() -> list[Path]:
    """Those that the command names, or the examples of the package."""
    examples = Path(disttune.examples.__file__).parent
    return [Path(name) for name in sys.argv[1:]] or sorted(p.parent for p in examples.glob("*/model.onnx"))


def main() -> None:
    rows = [measure(read(folder)) for folder in main_folders()]
    for key in rows[0]:
        print(f"{key:<24}" + "".join(f"{row[key]:>24}" for row in rows))


if __name__ == "__main__":
    main()
