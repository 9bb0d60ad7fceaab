"""A tensor's values as a density: uniform within each bin of a histogram, and an atom of exact zeros.

Rules:
1. The linear histogram serves where 99.9 % of the non-zero values span at least 128 of its bins, the
   log-magnitude one otherwise (an outlier has made the linear bins too wide).
2. The outermost bins end at the exact minimum and maximum.
3. Exact zeros are no part of the bins: every quantizer represents them without error.
Everything is prefix sums over the bins: a question about a point costs one binary search.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import NDArray

from disttune.quantize.parameters import FloatArray
from disttune.quantize.statistics.histogram import log_bin_edges
from disttune.quantize.statistics.tensor_statistics import TensorStatistics

_BULK = 0.999
_LEAST_BULK_BINS = 128
_POINT = 2.0**-20  # relative width of a bin that stands for a single value


@dataclass(frozen=True, eq=False)
class Density:
    """Non-zero values as a piecewise uniform density.

    Args:
        edges: ends of the bins, strictly ascending, shape (n_bins + 1,); zero is one of them.
        mass: number of non-zero values in each bin, shape (n_bins,).
        n_zero: exact zeros.
        logarithmic: whether the bins are those of magnitudes; rule 1.
        step: distance of all edges but the outermost, a power of two; 0 where they differ.
    """

    edges: FloatArray
    mass: FloatArray
    n_zero: int = 0
    logarithmic: bool = False
    step: float = 0.0

    @classmethod
    def of(cls, statistics: TensorStatistics) -> Self:
        """The density of a tensor's values; rules 1 to 3."""
        linear = statistics.counts.astype(np.float64)
        linear[linear.size // 2] -= statistics.n_zero
        ends = statistics.minimum, statistics.maximum, statistics.n_zero
        if _n_bulk_bins(linear) >= _LEAST_BULK_BINS:
            return cls.from_bins(statistics.bin_edges(), linear, *ends)
        magnitudes = statistics.log_counts.astype(np.float64)
        return cls.from_bins(log_bin_edges(), magnitudes, *ends, logarithmic=True)

    @classmethod
    def from_bins(
        cls,
        edges: FloatArray,
        mass: FloatArray,
        minimum: float,
        maximum: float,
        n_zero: int = 0,
        *,
        logarithmic: bool = False,
    ) -> Self:
        """From a histogram; rule 2.

        Args:
            edges: strictly ascending, with zero among them, shape (n_bins + 1,).
            mass: number of non-zero values in each bin, shape (n_bins,). A value on an edge may be in
                either bin beside it; what lies beyond the edges is in the outermost bins.
            minimum, maximum: of the values.
            n_zero: exact zeros.
            logarithmic: whether the bins are those of magnitudes.
        """
        low, high = min(minimum, 0.0), max(maximum, 0.0)
        first = max(int(np.searchsorted(edges, low, side="right")) - 1, 0)
        last = max(min(int(np.searchsorted(edges, high, side="left")), mass.size), first)
        inner, kept = edges[first + 1 : last], mass[first:last]
        below, above = mass[:first].sum(), mass[last:].sum()  # values exactly on the outermost edge
        if below:
            inner, kept = np.append(low - low * _POINT, inner), np.append(below, kept)
        if above:
            inner, kept = np.append(inner, high - high * _POINT), np.append(kept, above)
        ends = ([low], [high]) if kept.size else ([0.0], [])
        step = 0.0 if logarithmic or below or kept.size < 2 else float(edges[1] - edges[0])
        return cls(np.concatenate((ends[0], inner, ends[1])), kept, n_zero, logarithmic, step)

    @property
    def empty(self) -> bool:
        """Whether there is no value but zero."""
        return self.mass.size == 0

    @cached_property
    def n_nonzero(self) -> float:
        return float(self.mass.sum())

    @cached_property
    def widths(self) -> FloatArray:
        return np.diff(self.edges)

    @cached_property
    def cumulative(self) -> FloatArray:
        """Mass below each edge."""
        return running_sum(self.mass)

    @cached_property
    def total(self) -> float:
        """Sum of all values."""
        return float((self.mass * (self.edges[1:] + self.edges[:-1])).sum() / 2)

    @cached_property
    def squares(self) -> float:
        """Sum of all squared values."""
        middles = (self.edges[1:] + self.edges[:-1]) / 2
        return float((self.mass * (middles * middles + self.widths * self.widths / 12)).sum())

    @cached_property
    def octaves(self) -> int:
        """How often the larger end of the range has to be halved to reach the median magnitude."""
        size = self.folded()
        median = np.interp(self.n_nonzero / 2, size.cumulative, size.edges)
        return int(np.clip(np.ceil(np.log2(size.edges[-1] / median)), 1, 64))

    def bins(self, points: FloatArray) -> NDArray[np.intp]:
        """The bin of each point, the outermost one for points beyond."""
        last = self.mass.size - 1
        if not self.step:
            place = np.searchsorted(self.edges, points, side="right") - 1
            return np.clip(place, 0, last).astype(np.intp)
        steps = np.floor((points - self.edges[1]) / self.step)  # right but for the outermost edge
        found: NDArray[np.intp] = np.clip(steps + 1, 0, last).astype(np.intp)
        found[points >= self.edges[last]] = last
        return found

    def distances_beyond(self, points: FloatArray) -> FloatArray:
        """Sum of |x - point| over all values x farther from zero on the point's side.

        Args:
            points: none of them zero, any shape.
        """
        at = self.bins(points)
        constant, linear, quadratic = self._distances
        t = points - self.edges[at]
        found = constant[at] + t * (linear[at] + t * quadratic[at])
        return np.where((points > self.edges[0]) & (points < self.edges[-1]), found, 0.0)

    def squares_above(self, points: FloatArray) -> FloatArray:
        """Sum of (x - point)**2 over all values x above each point, which is not negative."""
        return self._squares(points, self.bins(points), -2.0, points < self.edges[-1])

    def squares_below(self, points: FloatArray) -> FloatArray:
        """Sum of (x - point)**2 over all values x below each point, which is not positive."""
        at = np.maximum(np.searchsorted(self.edges, points, side="left") - 1, 0)
        return self._squares(points, at, 2.0, points > self.edges[0])

    def coarsened(self, n_bins: int) -> Self:
        """The same values in about so many bins, each of them a run of bins of one sign."""
        last = self.mass.size
        step = -(-last // n_bins)
        if step <= 1:
            return self
        zero = int(np.searchsorted(self.edges, 0.0))
        runs = (np.arange(zero, -1, -step), np.arange(zero, last + 1, step), np.array([0, last]))
        kept = np.unique(np.concatenate(runs))
        mass = np.diff(self.cumulative[kept])
        return type(self)(self.edges[kept], mass, self.n_zero, self.logarithmic)

    def folded(self) -> Self:
        """The density of the magnitudes."""
        edges = np.unique(np.abs(self.edges))
        below = np.interp(edges, self.edges, self.cumulative) - np.interp(-edges, self.edges, self.cumulative)
        return type(self)(edges, np.diff(below), self.n_zero, self.logarithmic)

    def _squares(
        self, points: FloatArray, at: NDArray[np.intp], sign: float, inside: NDArray[np.bool_]
    ) -> FloatArray:
        constant, linear, quadratic = (part[at] for part in self._distances)
        t = points - self.edges[at]
        found = self._squares_at_edges[at] + sign * t * (constant + t * (linear / 2 + t * quadratic / 3))
        return np.where(inside, found, 0.0)

    @cached_property
    def _squares_at_edges(self) -> FloatArray:
        """Sum of squared distances to the values beyond the lower edge of each bin."""
        constant, linear, quadratic = self._distances
        w = self.widths
        inside = 2 * w * (constant + w * (linear / 2 + w * quadratic / 3))
        return np.where(self.edges[:-1] >= 0, inside[::-1].cumsum()[::-1], running_sum(inside)[:-1])

    @cached_property
    def _distances(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """`distances_beyond` within a bin as a polynomial of the distance from its lower edge."""
        positive = self.edges[:-1] >= 0
        half = self.mass / 2
        left = self.cumulative[:-1]
        right = self.mass[::-1].cumsum()[::-1]  # of the bin and of all above it
        rising = running_sum(self.widths * (left + half))[:-1]
        falling = (self.widths * (right - half))[::-1].cumsum()[::-1]
        return (
            np.where(positive, falling, rising),
            np.where(positive, -right, left),
            half / self.widths,
        )


def running_sum(values: FloatArray) -> FloatArray:
    """Sum of the values before each position, and of all at the end; along the last axis."""
    return np.concatenate(([0.0], values.cumsum()))


def _n_bulk_bins(mass: FloatArray) -> int:
    """Number of bins from the first to the last of those that hold the bulk; rule 1."""
    cumulative = mass.cumsum()
    outside = cumulative[-1] * (1 - _BULK) / 2
    first = np.searchsorted(cumulative, outside, side="right")
    last = np.searchsorted(cumulative, cumulative[-1] - outside, side="left")
    return int(last - first) + 1
