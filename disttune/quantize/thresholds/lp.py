"""L_p: the least mean p-th power of the error; p = 1 spares outliers least, p = 4 most."""

import numpy as np
from numpy.typing import NDArray

from disttune.config.schemes import Scheme
from disttune.quantize.parameters import FloatArray, Levels, Range, is_symmetric, levels_of
from disttune.quantize.statistics.tensor_statistics import TensorStatistics
from disttune.quantize.thresholds.clip_search import NOISE, ClipSearch, Cost
from disttune.quantize.thresholds.density import Density
from disttune.quantize.thresholds.registry import parameter_of, register_slice_threshold, register_threshold
from disttune.quantize.thresholds.slices import Ranges, Slices, least_error, powers

_COARSE_BINS = 512


@register_threshold("lp")
def lp(statistics: TensorStatistics, scheme: Scheme) -> Range:
    """The range with the least sum of |error|**p, p being the scheme's parameter.

    The first grid is scored on wider bins, the finer ones on all.
    """
    density = Density.of(statistics)
    p = parameter_of(scheme)

    def cost_on(values: Density) -> Cost:
        return lambda rmin, rmax: power_error(values, levels_of(rmin, rmax, scheme), p)

    farther = np.maximum(np.abs(density.edges[1:]), np.abs(density.edges[:-1]))
    search = ClipSearch(
        cost_on(density),
        coarse_cost=cost_on(density.coarsened(_COARSE_BINS)),
        noise=float((density.mass * farther**p).sum()) * NOISE,
        chunk=16,
    )
    return search.best(density, is_symmetric(scheme))


def power_error(density: Density, quantizers: Levels, p: float) -> FloatArray:
    """Sum of |x - nearest level|**p of each quantizer, exact for the density, shape (n,)."""
    integral = _error_integral(density.edges, quantizers, p)
    error: FloatArray = (np.diff(integral, axis=1) * (density.mass / density.widths)).sum(axis=1)
    return error


def _error_integral(points: FloatArray, quantizers: Levels, p: float) -> FloatArray:
    """Integral of |x - nearest level|**p over x from zero to each point, shape (n, n_points)."""
    gaps, edges = quantizers.gaps, quantizers.edges
    if gaps.shape[1] == 1:
        last = edges.shape[1]
        zero = np.floor(-edges[:, :1] / gaps) + 1  # position of level 0
        passed = np.clip(np.floor((points - edges[:, :1]) / gaps) + 1, 0, last) - zero
        nearest = passed * gaps
        halves = passed * (gaps / 2) ** (p + 1)
    else:
        at = np.stack([np.searchsorted(row, points, side="right") for row in edges])
        nearest = _from_zero(gaps, edges, at)
        halves = _from_zero((gaps / 2) ** (p + 1), edges, at)
    error = points - nearest
    return np.asarray((np.copysign(np.abs(error) ** (p + 1), error) + 2 * halves) / (p + 1))


def _from_zero(steps: FloatArray, edges: FloatArray, at: NDArray[np.intp]) -> FloatArray:
    """Sum of the steps between level 0 and the levels at positions, shape of the positions."""
    zero = int((edges[0] < 0).sum())  # the same in every row: the levels are those of one type
    before = steps[:, :zero][:, ::-1].cumsum(axis=1)[:, ::-1]
    after = steps[:, zero:].cumsum(axis=1)
    sums = np.concatenate((-before, np.zeros((edges.shape[0], 1)), after), axis=1)
    return np.asarray(np.take_along_axis(sums, at, axis=1))


@register_slice_threshold("lp")
def slice_lp(slices: Slices) -> Ranges:
    """The range of each slice with the least sum of |error|**p."""
    return least_error(slices, powers(parameter_of(slices.scheme)))
