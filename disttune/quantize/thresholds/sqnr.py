"""SQNR ("tf_enhanced"): rounding noise against saturation, saturation weighing more."""

import numpy as np

from disttune.config.schemes import Scheme
from disttune.quantize.parameters import FloatArray, Levels, Range, is_symmetric, levels_of
from disttune.quantize.statistics.tensor_statistics import TensorStatistics
from disttune.quantize.thresholds.clip_search import widest_of_least
from disttune.quantize.thresholds.density import Density
from disttune.quantize.thresholds.mse import noise_of, squared_error
from disttune.quantize.thresholds.registry import parameter_of, register_slice_threshold, register_threshold
from disttune.quantize.thresholds.slices import Ranges, Slices, least_error, saturation_weighted

_N_SYMMETRIC = 100
_N_WIDTHS = 16
_N_OFFSETS = 20


@register_threshold("sqnr")
def sqnr(statistics: TensorStatistics, scheme: Scheme) -> Range:
    """The range with the least squared error, where the scheme's parameter weighs what saturates.

    Symmetric: reaches of 1 to 100 hundredths of the largest magnitude. Otherwise widths of 1 to 17 sixteenths
    of the observed width, each with 21 positions from all below zero to all above, cut to the observed range.
    Where an outlier has made that too coarse, widths go on down by octaves.
    Source: AIMET, TfEnhancedEncodingAnalyzer. Here over the exact histogram of all samples, with each
    range as the runtime will quantize it, and saturation measured from the outermost level.
    """
    density = Density.of(statistics)
    low, high = float(density.edges[0]), float(density.edges[-1])
    symmetric = is_symmetric(scheme)
    steps = _N_SYMMETRIC if symmetric else _N_WIDTHS
    sizes = np.arange(1, steps + 2) / steps
    if density.logarithmic:
        sizes = np.concatenate((0.5 ** np.arange(density.octaves, 0, -1.0), sizes))
    if symmetric:
        reach = sizes * max(-low, high)
        ends = -reach, reach
    else:
        places = np.arange(_N_OFFSETS + 1) / _N_OFFSETS - 1
        widths = np.repeat(sizes * (high - low), places.size)
        rmin = widths * np.tile(places, sizes.size)
        ends = rmin, rmin + widths
    rmin = np.append(np.maximum(ends[0], low), low)
    rmax = np.append(np.minimum(ends[1], high), high)
    some = rmax > rmin
    rmin, rmax = rmin[some], rmax[some]
    quantizers = levels_of(rmin, rmax, scheme)
    error = weighted_error(density, quantizers, parameter_of(scheme))
    best = widest_of_least(error, rmax - rmin, noise_of(density))
    return float(rmin[best]), float(rmax[best])


def weighted_error(density: Density, quantizers: Levels, gamma: float) -> FloatArray:
    """Sum of the squared errors, those of values beyond the outermost levels times gamma, shape (n,)."""
    saturated = density.squares_above(quantizers.highest) + density.squares_below(quantizers.lowest)
    return squared_error(density, quantizers) + (gamma - 1) * saturated


@register_slice_threshold("sqnr")
def slice_sqnr(slices: Slices) -> Ranges:
    """The range of each slice with the least weighted error, searched like that of "mse"."""
    return least_error(slices, saturation_weighted(parameter_of(slices.scheme)))
