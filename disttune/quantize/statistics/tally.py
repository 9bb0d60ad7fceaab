"""Counting values by their upper bits, and both histograms from these counts.

The upper 19 bits of a float32 (sign, exponent and ten bits of the mantissa) tell the linear bin of a value
whatever the width of the bins, since no octave has more than 1,024 of them, and its counter by magnitude. So
a value is counted once, before the range of its tensor is known, and one side of zero can be had alone.
Only where all magnitudes are below 2**-115 may bins be finer than that.
"""

import numpy as np
from numpy.typing import NDArray

from disttune.quantize.statistics.histogram import (
    COUNTERS_PER_OCTAVE,
    HALF,
    HALF_COUNTERS,
    LOWEST_OCTAVE,
    Counts,
    exponent_for,
)

PIECE = 1 << 16  # values that are worked on at a time: their copies stay in the processor's cache
_N_BITS = 10  # of the mantissa
_SHIFT = 23 - _N_BITS
_PER_OCTAVE = 1 << _N_BITS
_BIAS = 127  # of exponents, of which zero is that of denormals
_N_EXPONENTS = 256
_NEGATIVE = _N_EXPONENTS * _PER_OCTAVE
_TINY = np.float32(2.0 ** (1 - _BIAS - _N_BITS))  # what is smaller is counted where zeros are
_LOWEST = LOWEST_OCTAVE + _BIAS
_LEAST_TOP = _N_BITS + 2  # octaves of several bins are then those of normal numbers
_USUAL_OCTAVES = 24  # which nearly all tensors keep to
# Where the bins 1 to 511 begin, from the octave of bin 1 on.
_BINS = np.array([(o << _N_BITS) + (i << _N_BITS - o) for o in range(_N_BITS - 1) for i in range(1 << o)])
_COUNTERS = np.arange(0, _NEGATIVE, _PER_OCTAVE // COUNTERS_PER_OCTAVE)

Values = NDArray[np.float32]


class Tally:
    """Counts of one tensor's values at a time: add them, close, ask, and clear."""

    def __init__(self) -> None:
        self._counts = np.zeros((2, _N_EXPONENTS, _PER_OCTAVE), np.int64)  # by sign, exponent and mantissa
        self._flat = self._counts.reshape(-1)
        self._prefixes = np.empty(PIECE, np.uint32)
        self._indices = np.empty(PIECE, np.intp)
        self._nonzero = np.empty(PIECE, np.bool_)
        self._begin()

    def _begin(self) -> None:
        self.n = 0
        self._n_zero = self._n_tiny = self._n_tiny_negative = 0
        self._used = slice(_N_EXPONENTS)
        self._totals = np.zeros(2, np.int64)
        self._counters = np.zeros((2, HALF_COUNTERS), np.int64)

    def add(self, values: Values) -> None:
        """Count values, finite ones and no more than `PIECE`."""
        prefixes, indices = self._prefixes[: values.size], self._indices[: values.size]
        np.right_shift(values.view(np.uint32), _SHIFT, out=prefixes)
        np.copyto(indices, prefixes)
        np.add.at(self._flat, indices, 1)
        self.n += values.size
        n_tiny = int(self._flat[0]) + int(self._flat[_NEGATIVE]) - self._n_zero - self._n_tiny
        if n_tiny:
            nonzero = np.not_equal(values, 0, out=self._nonzero[: values.size])
            n_zero = values.size - int(np.count_nonzero(nonzero))
            self._n_zero += n_zero
            if n_tiny > n_zero:
                self._n_tiny += n_tiny - n_zero
                self._n_tiny_negative += int(np.count_nonzero((values < 0) & (values > -_TINY)))

    def close(self, absmax: float) -> None:
        """There are no more values.

        Args:
            absmax: the greatest magnitude.
        """
        self._flat[0] = self._n_tiny - self._n_tiny_negative
        self._flat[_NEGATIVE] = self._n_tiny_negative
        end = max(_top(exponent_for(absmax)), 0) + 1
        for first in (max(end - _USUAL_OCTAVES, 0), 0):
            self._used = slice(first, end)
            n_parts = (end - first) * COUNTERS_PER_OCTAVE
            parts = np.add.reduceat(self._octaves(first, end), _COUNTERS[:n_parts], axis=1)
            self._totals = parts.sum(axis=1)
            if self._totals.sum() == self.n - self._n_zero:
                break
        self._put_counters(parts, (first - _LOWEST) * COUNTERS_PER_OCTAVE)

    def counters(self) -> Counts:
        """Values but zeros by magnitude: first the positive ones, shape (2, 1024)."""
        return self._counters

    def bins(self, exponent: int) -> Counts:
        """Values but zeros in linear bins from zero outwards: first the positive ones, shape (2, 2048).

        Args:
            exponent: of the bins, which `tells`. A side that it has no room for means nothing.
        """
        top = _top(exponent)
        bins = np.empty((2, HALF), np.int64)
        bins[:, HALF // 2 :] = self._octaves(top, top + 1)
        halves = self._octaves(top - 1, top)
        np.add(halves[:, ::2], halves[:, 1::2], out=bins[:, HALF // 4 : HALF // 2])
        np.add.reduceat(self._octaves(top - _N_BITS, top - 1), _BINS, axis=1, out=bins[:, 1 : HALF // 4])
        bins[:, 0] = self._totals - bins[:, 1:].sum(axis=1)
        return bins

    def clear(self) -> None:
        """Forget everything."""
        self._counts[:, self._used] = 0
        self._flat[0] = self._flat[_NEGATIVE] = 0
        self._begin()

    @staticmethod
    def tells(exponent: int) -> bool:
        """Whether bins of this exponent follow from the counts."""
        return _top(exponent) >= _LEAST_TOP

    def _octaves(self, first: int, end: int) -> Counts:
        return self._counts[:, first:end].reshape(2, -1)

    def _put_counters(self, parts: Counts, start: int) -> None:
        """Counts of the sixteenths of octaves, the first of which are those of a counter, or of none."""
        n_before = max(-start, 0)
        start = min(max(start, 0), HALF_COUNTERS)
        within = parts[:, n_before : n_before + HALF_COUNTERS - start]
        end = start + within.shape[1]
        self._counters[:, start:end] = within
        self._counters[:, 0] += parts[:, :n_before].sum(axis=1)
        self._counters[:, -1] += parts[:, n_before + end - start :].sum(axis=1)


def _top(exponent: int) -> int:
    """The octave of the outermost 1,024 bins."""
    return exponent + _N_BITS + _BIAS
