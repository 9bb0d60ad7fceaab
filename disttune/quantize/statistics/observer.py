"""From arrays to the statistics of a tensor: the loops that calibration spends its time in.

The result depends on the values and on where samples end, not on how the arrays come in:
1. extrema and counts are exact;
2. a sample is summed in float64, in pieces of a fixed size from its own start;
3. a value x is in bin floor(x / width), and this division by a power of two is exact: done in float32
   where that only scales up, in float64 elsewhere, so that denormals keep their bins.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from disttune.quantize.statistics.histogram import (
    HALF,
    N_BINS,
    N_COUNTERS,
    N_PREFIXES,
    PREFIX_SHIFT,
    ZERO_EXPONENT,
    FloatArray,
    coarsened,
    exponent_for,
    magnitude_counts,
)
from disttune.quantize.statistics.tensor_statistics import TensorStatistics

# Magnitudes from here on are no values: exporters write attention masks as -3.4e38 or minus infinity.
MASK = np.float32(1e30)
_INFINITY = np.float32(np.inf)
_PIECE = 1 << 16  # values that are worked on at a time: their copies stay in the processor's cache
_EXACT_IN_FLOAT32 = range(-127, 1)  # exponents of bins

Values = NDArray[np.float32]
Indices = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Samples:
    """One tensor's values over one feed.

    Args:
        values: any shape.
        n: samples in it: 1, or the size of the first dimension, each row being one.
    """

    values: NDArray[np.floating]
    n: int


class NanError(Exception):
    """A tensor holds NaN in a sample, counted from the first one that was given."""

    def __init__(self, sample: int):
        super().__init__(sample)
        self.sample = sample


class Scratch:
    """Room for copies of the values that are worked on; one for many observers."""

    def __init__(self) -> None:
        self.floats = np.empty(_PIECE, np.float32)
        self.doubles = np.empty(_PIECE, np.float64)
        self.narrow = np.empty(_PIECE, np.int32)
        self.indices = np.empty(_PIECE, np.int64)
        self.mask = np.empty(_PIECE, np.bool_)
        self.prefix_counts = np.empty(N_PREFIXES, np.int64)


class TensorObserver:
    """Takes in the values of one tensor, sample after sample.

    Args:
        scratch: not used by another thread.
    """

    def __init__(self, scratch: Scratch):
        self._scratch = scratch
        self._n = self._n_zero = self._n_excluded = 0
        self._minimum, self._maximum = np.inf, -np.inf
        self._exponent = ZERO_EXPONENT
        self._counts = np.zeros(N_BINS, np.int64)
        self._log_counts = np.zeros(N_COUNTERS, np.int64)
        self._of_samples: list[FloatArray] = [np.zeros((4, 0))]

    def add(self, samples: Sequence[Samples]) -> None:
        """Take in the next samples.

        Raises:
            NanError: nothing was taken in.
        """
        layout = _layout(tuple((part.values.size, part.n) for part in samples))
        of_samples = np.zeros((4, layout.n_samples))
        if layout.filled.size:
            values = _flat(samples)
            minima = np.minimum.reduceat(values, layout.starts)
            maxima = np.maximum.reduceat(values, layout.starts)
            lowest, highest = float(minima.min()), float(maxima.max())
            if math.isnan(lowest):
                raise NanError(int(layout.filled[np.flatnonzero(np.isnan(minima))[0]]))
            if lowest <= -MASK or highest >= MASK:
                values, minima, maxima = self._without_masks(values, layout)
                lowest, highest = float(minima.min()), float(maxima.max())
            self._widen(lowest, highest)
            sums, squares = self._count_and_sum(values, layout)
            of_samples[:, layout.filled] = minima, maxima, sums, squares
            of_samples[np.isinf(of_samples)] = 0  # of a sample that is nothing but masks
            of_samples += 0.0  # no negative zeros: which zero is the least is chance
        self._of_samples.append(of_samples)

    def statistics(self) -> TensorStatistics:
        """Of everything taken in so far."""
        minima, maxima, sums, squares = np.concatenate(self._of_samples, axis=1)
        return TensorStatistics(
            n=self._n,
            n_zero=self._n_zero,
            n_excluded=self._n_excluded,
            minimum=self._minimum + 0.0 if self._n else 0.0,
            maximum=self._maximum + 0.0 if self._n else 0.0,
            sample_minima=minima,
            sample_maxima=maxima,
            sample_sums=sums,
            sample_squares=squares,
            exponent=self._exponent,
            counts=self._counts.copy(),
            log_counts=self._log_counts.copy(),
        )

    def _without_masks(self, values: Values, layout: "_Layout") -> tuple[Values, Values, Values]:
        """The values with zeros for what does not count, and the extrema of what does."""
        counting = np.abs(values) < MASK
        n_excluded = counting.size - int(np.count_nonzero(counting))
        self._n_excluded += n_excluded
        self._n -= n_excluded  # `_count_and_sum` takes them for zeros
        self._n_zero -= n_excluded
        self._counts[HALF] -= n_excluded
        minima = np.minimum.reduceat(np.where(counting, values, _INFINITY), layout.starts)
        maxima = np.maximum.reduceat(np.where(counting, values, -_INFINITY), layout.starts)
        return np.where(counting, values, np.float32(0)), minima, maxima

    def _widen(self, minimum: float, maximum: float) -> None:
        """Make room for values in a range, which is empty when minimum > maximum."""
        self._minimum, self._maximum = min(self._minimum, minimum), max(self._maximum, maximum)
        if minimum > maximum:
            return
        exponent = exponent_for(max(-minimum, maximum))
        if exponent > self._exponent:
            self._counts = coarsened(self._counts, exponent - self._exponent)
            self._exponent = exponent

    def _count_and_sum(self, values: Values, layout: "_Layout") -> tuple[FloatArray, FloatArray]:
        """Count all values; returns sums and sums of squares of each filled sample."""
        scratch = self._scratch
        sums, squares = np.empty((2, layout.n_pieces))
        scratch.prefix_counts[:] = 0
        for portion in layout.portions:
            part = values[portion.values]
            doubles = scratch.doubles[: part.size]
            np.copyto(doubles, part)
            np.add.reduceat(doubles, portion.starts, out=sums[portion.pieces])
            np.multiply(doubles, doubles, out=doubles)
            np.add.reduceat(doubles, portion.starts, out=squares[portion.pieces])
            nonzero = np.not_equal(part, 0, out=scratch.mask[: part.size])
            n_zero = part.size - int(np.count_nonzero(nonzero))
            if n_zero:
                self._n_zero += n_zero
                self._counts[HALF] += n_zero
                part = np.compress(nonzero, part)
            self._count_by_bin(part)
            self._count_by_prefix(part)
        self._n += values.size
        self._log_counts += magnitude_counts(scratch.prefix_counts)
        if layout.n_pieces == layout.starts.size:
            return sums, squares
        return np.add.reduceat(sums, layout.first_pieces), np.add.reduceat(squares, layout.first_pieces)

    def _count_by_bin(self, values: Values) -> None:
        scratch, n = self._scratch, values.size
        scaled = (scratch.floats if self._exponent in _EXACT_IN_FLOAT32 else scratch.doubles)[:n]
        np.multiply(values, scaled.dtype.type(2.0**-self._exponent), out=scaled)
        np.floor(scaled, out=scaled)
        bins, indices = scratch.narrow[:n], scratch.indices[:n]
        np.copyto(bins, scaled, casting="unsafe")
        np.add(bins, HALF, out=bins)
        np.copyto(indices, bins)
        np.add.at(self._counts, indices, 1)

    def _count_by_prefix(self, values: Values) -> None:
        scratch, n = self._scratch, values.size
        prefixes, indices = scratch.narrow[:n].view(np.uint32), scratch.indices[:n]
        np.right_shift(values.view(np.uint32), PREFIX_SHIFT, out=prefixes)
        np.copyto(indices, prefixes)
        np.add.at(scratch.prefix_counts, indices, 1)


@dataclass(frozen=True, slots=True)
class _Portion:
    """A run of whole pieces, small enough to be worked on at a time.

    Args:
        values: of the flat values.
        pieces: of all pieces.
        starts: of the pieces, counted from the first of these values.
    """

    values: slice
    pieces: slice
    starts: Indices


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where samples, one after the other in a flat array, begin and end.

    A sample is a row of pieces of `_PIECE` values; the last of them may be smaller.

    Args:
        n_samples: also those without values.
        filled: positions of the samples that have values.
        starts: of these samples.
        first_pieces: position of the first piece of each of these samples.
        n_pieces: of all samples.
        portions: all pieces, in order.
    """

    n_samples: int
    filled: Indices
    starts: Indices
    first_pieces: Indices
    n_pieces: int
    portions: tuple[_Portion, ...]


@functools.lru_cache(maxsize=256)  # many tensors have the same
def _layout(parts: tuple[tuple[int, int], ...]) -> _Layout:
    """Layout of parts, each with its number of values and of samples."""
    sizes = np.array([size // n for size, n in parts for _ in range(n)], np.intp)
    filled = np.flatnonzero(sizes)
    rows = sizes[filled]
    starts = np.cumsum(rows) - rows
    n_pieces = -(-rows // _PIECE)
    first_pieces = np.cumsum(n_pieces) - n_pieces
    within_row = np.arange(n_pieces.sum()) - np.repeat(first_pieces, n_pieces)
    bounds = np.append(np.repeat(starts, n_pieces) + within_row * _PIECE, rows.sum())
    portions = []
    first = 0
    while first < within_row.size:
        last = int(np.searchsorted(bounds, bounds[first] + _PIECE, side="right")) - 1
        start, stop = int(bounds[first]), int(bounds[last])
        portions.append(_Portion(slice(start, stop), slice(first, last), bounds[first:last] - start))
        first = last
    return _Layout(sizes.size, filled, starts, first_pieces, within_row.size, tuple(portions))


def _flat(samples: Sequence[Samples]) -> Values:
    parts = [part.values.reshape(-1) for part in samples]
    return (parts[0] if len(parts) == 1 else np.concatenate(parts)).astype(np.float32, copy=False)
