"""Threshold methods and weights: milliseconds, and onnxruntime's own collectors beside them.

python -m tests.benchmarks.bench_thresholds
"""

import contextlib
import io
import time
from collections.abc import Callable
from functools import partial

import numpy as np
from onnxruntime.quantization import QuantType
from onnxruntime.quantization.calibrate import HistogramCollector
from onnxruntime.quantization.quant_utils import quantize_data

from disttune.config.schemes import METHODS, Scheme
from disttune.quantize.statistics.tensor_statistics import TensorStatistics
from disttune.quantize.thresholds.registry import activation_range
from disttune.quantize.weights import quantize_weight
from tests.quantize.plain_statistics import statistics_of

N_VALUES = 500_000
SCHEMES = [("uint8", False), ("int8", True), ("float8e4m3fn", True)]


def values() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    normal = random.standard_normal(N_VALUES)
    return {
        "two signs": normal.astype(np.float32),
        "relu": np.maximum(normal, 0).astype(np.float32),
        "outlier": np.append(normal, 1e3).astype(np.float32),
    }


def milliseconds(work: Callable[[], object], repeat: int = 7) -> float:
    best = np.inf
    for _ in range(repeat):
        started = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - started)
    return best * 1000


def activations() -> None:
    tensors = {name: statistics_of(array, 16) for name, array in values().items()}
    columns = [f"{dtype}, {name}" for dtype, _ in SCHEMES for name in tensors]
    print("milliseconds per tensor, 4,096 bins\n")
    print(f"{'':>18}" + "".join(f"{column:>24}" for column in columns))
    for method in METHODS:
        row = [
            milliseconds(partial(activation_range, statistics, Scheme(dtype, symmetric, method=method)))
            for dtype, symmetric in SCHEMES
            for statistics in tensors.values()
        ]
        print(f"{method:>18}" + "".join(f"{ms:>24.2f}" for ms in row))


def model() -> None:
    """300 tensors, half of them after a Relu, as a model has them."""
    random = np.random.default_rng(1)
    tensors = [
        statistics_of(np.maximum(a, 0) if i % 2 else a)
        for i, a in enumerate(random.standard_normal((300, 20_000)) * random.uniform(0.1, 9, (300, 1)))
    ]
    print("\n300 tensors, half of them after a Relu, seconds\n")
    for dtype, symmetric in SCHEMES[:2]:
        for method in METHODS:
            scheme = Scheme(dtype, symmetric, method=method)
            seconds = milliseconds(partial(ranges, tensors, scheme), 3) / 1000
            print(f"{dtype:>8} {method:>18} {seconds:>8.3f}")


def ranges(tensors: list[TensorStatistics], scheme: Scheme) -> list[tuple[float, float]]:
    return [activation_range(statistics, scheme) for statistics in tensors]


def onnxruntime_collectors() -> None:
    print("\nonnxruntime's collectors, milliseconds per tensor\n")
    print(f"{'method':>12} {'bins':>6} {'quantized':>10} {'onnxruntime':>12} {'ours':>8}")
    array = values()["two signs"]
    statistics = statistics_of(array)
    for method, n_bins, n_quantized in [
        ("percentile", 2048, 128),
        ("percentile", 4096, 128),
        ("entropy", 128, 128),
        ("entropy", 2048, 128),
        ("entropy", 4096, 256),
    ]:
        theirs = collector_ms(array, method, n_bins, n_quantized)
        ours = milliseconds(partial(activation_range, statistics, Scheme("uint8", False, method=method)))
        print(f"{method:>12} {n_bins:>6} {n_quantized:>10} {theirs:>12.1f} {ours:>8.2f}")


def collector_ms(array: np.ndarray, method: str, n_bins: int, n_quantized: int) -> float:
    collector = HistogramCollector(method, False, n_bins, n_quantized, 99.999, "same")
    with contextlib.redirect_stdout(io.StringIO()):  # it prints
        collector.collect({"x": array})
        return milliseconds(collector.compute_collection_result, 1)


def weights() -> None:
    random = np.random.default_rng(2)
    weight = random.standard_normal((1536, 384)).astype(np.float32)
    print("\nweight (1536, 384), milliseconds\n")
    print(f"{'':>18}{'int8 channel':>14}{'uint8 channel':>14}{'int4 group 32':>14}{'int8 tensor':>14}")
    schemes = [
        Scheme("int8", True, "per_channel"),
        Scheme("uint8", False, "per_channel"),
        Scheme("int4", True, "per_group", 32),
        Scheme("int8", True),
    ]
    for method in METHODS:
        row = []
        for s in schemes:
            scheme = Scheme(s.dtype, s.symmetric, s.granularity, s.group_size, method)
            if method == "entropy" and s.granularity == "per_group":
                row.append(np.nan)  # a histogram for each of 18,432 groups
            else:
                row.append(milliseconds(partial(quantize_weight, weight, scheme, 1), 1))
        print(f"{method:>18}" + "".join(f"{ms:>14.1f}" for ms in row))
    theirs = milliseconds(
        lambda: [quantize_data(weight[:, i], QuantType.QInt8.tensor_type, True) for i in range(384)], 3
    )
    print(f"{'onnxruntime minmax':>18}{theirs:>13.1f}")


if __name__ == "__main__":
    activations()
    model()
    onnxruntime_collectors()
    weights()
