"""The statistics of one tensor as its values come in, batch after batch."""

from collections.abc import Sequence

import numpy as np

from disttune.quantize.statistics.batch import Batch
from disttune.quantize.statistics.histogram import (
    HALF,
    N_BINS,
    N_COUNTERS,
    ZERO_EXPONENT,
    Counts,
    FloatArray,
    coarsened,
    exponent_for,
)
from disttune.quantize.statistics.layout import Samples
from disttune.quantize.statistics.tally import Tally
from disttune.quantize.statistics.tensor_statistics import TensorStatistics


class TensorObserver:
    """Takes in the values of one tensor, sample after sample.

    Args:
        tally: one for many observers, none of them in another thread.
        rectified: observer of the output of a Relu that reads the tensor, which is told what comes out.
    """

    def __init__(self, tally: Tally, rectified: "TensorObserver | None" = None):
        self._tally = tally
        self._rectified = rectified
        self._n = self._n_zero = self._n_excluded = 0
        self._minimum, self._maximum = np.inf, -np.inf
        self._exponent = ZERO_EXPONENT
        self._counts = np.zeros(N_BINS, np.int64)
        self._log_counts = np.zeros(N_COUNTERS, np.int64)
        self._extrema: list[FloatArray] = [np.zeros((2, 0))]

    def add(self, samples: Sequence[Samples]) -> None:
        """Take in the next samples.

        Raises:
            NanError: nothing was taken in.
        """
        try:
            batch = Batch.counted(samples, self._tally)
            self._take(batch)
            if self._rectified and not batch.n_excluded:
                self._rectified._take(batch.rectify())
        finally:
            self._tally.clear()
        if self._rectified and batch.n_excluded:  # what of it counts differs
            self._rectified.add([Samples(np.maximum(part.values, 0), part.n) for part in samples])

    def statistics(self) -> TensorStatistics:
        """Of everything taken in; there may not be more."""
        minima, maxima = np.concatenate(self._extrema, axis=1)
        return TensorStatistics(
            n=self._n,
            n_zero=self._n_zero,
            n_excluded=self._n_excluded,
            minimum=self._minimum + 0.0 if self._n else 0.0,
            maximum=self._maximum + 0.0 if self._n else 0.0,
            sample_minima=minima,
            sample_maxima=maxima,
            exponent=self._exponent,
            counts=self._counts,
            log_counts=self._log_counts,
        )

    def _take(self, batch: Batch) -> None:
        self._extrema.append(batch.extrema)
        self._n_excluded += batch.n_excluded
        if not batch.n:
            return
        self._widen(batch.minimum, batch.maximum)
        counters = batch.counters()
        n_zero = batch.n - int(counters.sum())
        self._n += batch.n
        self._n_zero += n_zero
        self._counts[HALF] += n_zero
        if n_zero < batch.n:
            _add(self._log_counts, counters)
            _add(self._counts, batch.bins(self._exponent))

    def _widen(self, minimum: float, maximum: float) -> None:
        """Make room for values in a range."""
        self._minimum, self._maximum = min(self._minimum, minimum), max(self._maximum, maximum)
        exponent = exponent_for(max(-minimum, maximum))
        if exponent > self._exponent:
            self._counts = coarsened(self._counts, exponent - self._exponent)
            self._exponent = exponent


def _add(counts: Counts, sides: Counts) -> None:
    """Add the positive side, and the negative one if there is one, both from zero outwards."""
    half = counts.size // 2
    for side, found in zip((counts[half:], counts[half - 1 :: -1]), sides, strict=False):
        side += found
