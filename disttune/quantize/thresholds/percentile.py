"""Percentile: leave out the outermost values."""

import numpy as np

from disttune.config.schemes import Scheme
from disttune.quantize.parameters import FloatArray, Range, is_symmetric
from disttune.quantize.statistics.tensor_statistics import TensorStatistics
from disttune.quantize.thresholds.density import Density
from disttune.quantize.thresholds.registry import parameter_of, register_slice_threshold, register_threshold
from disttune.quantize.thresholds.slices import Ranges, Slices


@register_threshold("percentile")
def percentile(statistics: TensorStatistics, scheme: Scheme) -> Range:
    """The range that holds so many percent of all values, zeros counted.

    Symmetric: of the magnitudes. Otherwise each end leaves out half of the rest. Linear interpolation
    inside a bin, where onnxruntime returns the bin's lower edge.
    """
    share = parameter_of(scheme) / 100
    density = Density.of(statistics)
    if is_symmetric(scheme):
        (reach,) = quantiles(density.folded(), np.array([share]))
        return -float(reach), float(reach)
    tail = (1 - share) / 2
    low, high = quantiles(density, np.array([tail, 1 - tail]))
    return float(low), float(high)


def quantiles(density: Density, shares: FloatArray) -> FloatArray:
    """Where the values below make up a share of all, zeros counted.

    Args:
        density: of the values; not empty.
        shares: 0 to 1, any shape.
    """
    zero = int(np.searchsorted(density.edges, 0.0))
    mass = np.insert(density.mass, zero, density.n_zero)
    starts = np.insert(density.edges[:-1], zero, 0.0)
    widths = np.insert(density.widths, zero, 0.0)
    inclusive = mass.cumsum()
    wanted = shares * inclusive[-1]
    at = np.minimum(np.searchsorted(inclusive, wanted, side="left"), mass.size - 1)
    inside = (wanted - (inclusive[at] - mass[at])) / np.maximum(mass[at], 1)
    return np.asarray(starts[at] + widths[at] * inside)


@register_slice_threshold("percentile")
def slice_percentiles(slices: Slices) -> Ranges:
    """The same of each slice's values, with linear interpolation between neighbours."""
    share = parameter_of(slices.scheme) / 100
    values = slices.rows.astype(np.float64)
    if is_symmetric(slices.scheme):
        reach = np.quantile(np.abs(values), share, axis=1)
        return -reach, reach
    tail = (1 - share) / 2
    rmin, rmax = np.quantile(values, (tail, 1 - tail), axis=1)
    return rmin, rmax
