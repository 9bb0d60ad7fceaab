"""Statistics of arrays, and the same by the slowest plain means."""

from collections.abc import Sequence

import numpy as np

from disttune.quantize.statistics.histogram import bin_edges, log_bin_edges
from disttune.quantize.statistics.observer import Samples, Scratch, TensorObserver
from disttune.quantize.statistics.statistics import Statistics
from disttune.quantize.statistics.tensor_statistics import TensorStatistics

SCRATCH = Scratch()


def rows(*arrays: np.ndarray) -> list[Samples]:
    """Feeds of which each row is a sample."""
    return [Samples(array, len(array)) for array in arrays]


def observed(feeds: Sequence[Samples], at_once: int = 1) -> TensorStatistics:
    """Statistics of feeds that are taken in a few at a time."""
    observer = TensorObserver(SCRATCH)
    for i in range(0, len(feeds), at_once):
        observer.add(feeds[i : i + at_once])
    return observer.statistics()


def packed(statistics: TensorStatistics | Statistics) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Everything, byte for byte."""
    if isinstance(statistics, TensorStatistics):
        statistics = Statistics({"t": statistics})
    return {name: (a.dtype.str, a.shape, a.tobytes()) for name, a in statistics.to_arrays().items()}


def bins(values: np.ndarray, exponent: int) -> np.ndarray:
    return np.histogram(values.astype(np.float64), bin_edges(exponent))[0]


def counters(values: np.ndarray) -> np.ndarray:
    """Counts by magnitude, one value after the other."""
    edges = log_bin_edges()[1024:]
    counts = np.zeros(2048, np.int64)
    for x in values.astype(np.float64).ravel():
        if x != 0:
            j = min(max(int(np.searchsorted(edges, abs(x), side="right")) - 1, 0), 1023)
            counts[1024 + j if x > 0 else 1023 - j] += 1
    return counts
