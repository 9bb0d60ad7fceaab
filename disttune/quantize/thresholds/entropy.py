"""Entropy: the least information lost (Kullback-Leibler divergence) between values and quantized values."""

import numpy as np

from disttune.config.schemes import FLOAT8_DTYPES, Scheme
from disttune.quantize.parameters import Codes, FloatArray, Levels, Range, is_symmetric, levels_of
from disttune.quantize.statistics.tensor_statistics import TensorStatistics
from disttune.quantize.thresholds.clip_search import NOISE, ClipSearch
from disttune.quantize.thresholds.density import Density, running_sum
from disttune.quantize.thresholds.registry import (
    register_slice_threshold,
    register_threshold,
    slice_statistics,
)
from disttune.quantize.thresholds.slices import Ranges, Slices

_N_DOUBLE = 16
_EPSILON = 1e-4  # values in an empty end cell that takes the clipped ones


@register_threshold("entropy")
def entropy(statistics: TensorStatistics, scheme: Scheme) -> Range:
    """The range whose quantizer keeps most of the distribution.

    Exact zeros are left out: every quantizer keeps them. Ranges with steps finer than the bins of a
    linear histogram are not tried, because their rounding would seem to lose nothing.
    Source: Migacz 2017, "8-bit Inference with TensorRT". Here with the rounding cells of the very quantizer
    instead of runs of whole bins, so that there is no remainder, and with both ends free.
    """
    return least_loss(Density.of(statistics), scheme)


def least_loss(
    density: Density,
    scheme: Scheme,
    codes: Codes | None = None,
) -> Range:
    """The range whose quantizer keeps most of a density that is not empty.

    Args:
        density: of the values.
        scheme: of the quantizer.
        codes: see `levels_of`.
    """
    information = _Information(density)
    finest = 0.0 if density.logarithmic or scheme.dtype in FLOAT8_DTYPES else float(density.widths.max())

    def cost(rmin: FloatArray, rmax: FloatArray) -> FloatArray:
        quantizers = levels_of(rmin, rmax, scheme, codes)
        observed = (rmin == density.edges[0]) & (rmax == density.edges[-1])
        allowed = observed | (quantizers.gaps[:, 0] >= finest)
        return np.where(allowed, information.lost(quantizers), np.inf)

    return ClipSearch(cost, n_double=_N_DOUBLE, noise=NOISE).best(density, is_symmetric(scheme))


def divergence(density: Density, quantizers: Levels) -> FloatArray:
    """What each quantizer loses of a density, shape (n,); in nats, infinite where it keeps nothing.

    A quantizer spreads the values of each of its cells evenly over the parts of the cell that hold any, and
    puts what it clips into the bin of its outermost level, which holds some then. Of n values, k not clipped,
    its loss is the divergence of values / n from spread / k.
    """
    return _Information(density).lost(quantizers)


class _Information:
    """The prefix sums for `divergence`."""

    def __init__(self, density: Density):
        filled = density.mass > 0
        self._density = density
        self._height = density.mass / density.widths
        self._filled = filled.astype(np.float64)
        self._covered = _outward_sum(density.widths * filled, int(np.searchsorted(density.edges, 0.0)))
        self._rate = self._height * np.log(np.where(filled, self._height, 1.0))
        self._information = running_sum(self._rate * density.widths)

    def lost(self, quantizers: Levels) -> FloatArray:
        """Loss of each quantizer, shape (n,)."""
        density = self._density
        first = (quantizers.lowest - quantizers.gaps[:, 0] / 2)[:, None]
        last = (quantizers.highest + quantizers.gaps[:, -1] / 2)[:, None]
        cells = np.concatenate((first, quantizers.edges, last), axis=1)
        cells = np.clip(cells, density.edges[0], density.edges[-1])
        at = density.bins(cells)
        inside = cells - density.edges[at]
        below = density.cumulative[at] + inside * self._height[at]
        covered = self._covered[at] + inside * self._filled[at]
        held, over = np.diff(below, axis=1), np.diff(covered, axis=1)
        clipped_below, clipped_above = below[:, 0], density.n_nonzero - below[:, -1]
        over[:, 0] += self._newly_filled(clipped_below, quantizers.lowest)
        over[:, -1] += self._newly_filled(clipped_above, quantizers.highest)
        spread = _log_ratio(held, over)
        lost = -(held * spread).sum(axis=1)
        for side, sign in ((0, -1), (-1, 1)):
            end = at[:, side]
            lost += sign * (self._information[end] + inside[:, side] * self._rate[end])
        lost += self._clipped(clipped_below, quantizers.lowest, held[:, 0], spread[:, 0])
        lost += self._clipped(clipped_above, quantizers.highest, held[:, -1], spread[:, -1])
        kept = below[:, -1] - below[:, 0]
        n = density.n_nonzero
        return np.where(kept > 0, lost / n + np.log(np.maximum(kept, 1e-300) / n), np.inf)

    def _newly_filled(self, n_clipped: FloatArray, level: FloatArray) -> FloatArray:
        """Width of the bin of an outermost level where nothing but the clipped values is in it."""
        at = self._density.bins(level)
        empty = self._density.mass[at] == 0
        return np.where((n_clipped > 0) & empty, self._density.widths[at], 0.0)

    def _clipped(
        self, n_clipped: FloatArray, level: FloatArray, held: FloatArray, spread: FloatArray
    ) -> FloatArray:
        """Loss by the values that go into the bin of an outermost level."""
        at = self._density.bins(level)
        mass, width = self._density.mass[at], self._density.widths[at]
        spread = np.where(held > 0, spread, np.log(_EPSILON / width))
        together = mass + n_clipped
        change = together * _log_ratio(together, width) - mass * _log_ratio(mass, width)
        return np.where(n_clipped > 0, change - n_clipped * spread, 0.0)


def _outward_sum(values: FloatArray, zero: int) -> FloatArray:
    """`running_sum` less its value at a position, and as exact near that position as the values are."""
    before, after = values[:zero][::-1].cumsum()[::-1], values[zero:].cumsum()
    return np.concatenate((-before, [0.0], after))


def _log_ratio(numerator: FloatArray, denominator: FloatArray) -> FloatArray:
    """log(numerator / denominator), 0 where either is."""
    some = (numerator > 0) & (denominator > 0)
    return np.log(np.divide(numerator, denominator, out=np.ones_like(numerator), where=some))


@register_slice_threshold("entropy")
def slice_entropy(slices: Slices) -> Ranges:
    """The same of each slice's histogram, with the codes that weights use."""
    ranges = []
    for statistics in slice_statistics(slices):
        density = Density.of(statistics)
        found = (0.0, 0.0)
        if not density.empty:
            found = least_loss(density, slices.scheme, slices.codes)
        ranges.append(found)
    rmin, rmax = np.array(ranges).T
    return rmin, rmax
