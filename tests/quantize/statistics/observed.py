"""Statistics of arrays, and the same by the slowest plain means."""

from collections.abc import Sequence

import numpy as np

from disttune.quantize.statistics.histogram import bin_edges, log_bin_edges
from disttune.quantize.statistics.layout import Samples
from disttune.quantize.statistics.observer import TensorObserver
from disttune.quantize.statistics.statistics import Statistics
from disttune.quantize.statistics.tally import Tally
from disttune.quantize.statistics.tensor_statistics import TensorStatistics

TALLY = Tally()


def rows(*arrays: np.ndarray) -> list[Samples]:
    """Feeds of which each row is a sample."""
    return [Samples(array, len(array)) for array in arrays]


def observed(feeds: Sequence[Samples], at_once: int = 1) -> TensorStatistics:
    """Statistics of feeds that are taken in a few at a time."""
    observer = TensorObserver(TALLY)
    for i in range(0, len(feeds), at_once):
        observer.add(feeds[i : i + at_once])
    return observer.statistics()


def observed_rectified(feeds: Sequence[Samples], at_once: int = 1) -> TensorStatistics:
    """Statistics of what a Relu makes of feeds that are taken in."""
    rectified = TensorObserver(TALLY)
    observer = TensorObserver(TALLY, rectified)
    for i in range(0, len(feeds), at_once):
        observer.add(feeds[i : i + at_once])
    return rectified.statistics()


def packed(statistics: TensorStatistics | Statistics) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Everything, byte for byte."""
    if isinstance(statistics, TensorStatistics):
        statistics = Statistics({"t": statistics})
    return {name: (a.dtype.str, a.shape, a.tobytes()) for name, a in statistics.to_arrays().items()}


def bins(values: np.ndarray, exponent: int) -> np.ndarray:
    """Counts in linear bins; those of negative values are as those of their magnitudes."""
    edges, values = bin_edges(exponent)[2048:], values.astype(np.float64)
    sides = [np.histogram(side, edges)[0] for side in (-values[values < 0], values[values >= 0])]
    return np.concatenate((sides[0][::-1], sides[1]))


def counters(values: np.ndarray) -> np.ndarray:
    """Counts by magnitude, one value after the other."""
    edges = log_bin_edges()[1024:]
    counts = np.zeros(2048, np.int64)
    for x in values.astype(np.float64).ravel():
        if x != 0:
            j = min(max(int(np.searchsorted(edges, abs(x), side="right")) - 1, 0), 1023)
            counts[1024 + j if x > 0 else 1023 - j] += 1
    return counts
