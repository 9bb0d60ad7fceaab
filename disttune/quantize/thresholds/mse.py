"""MSE: the least mean squared error of quantizing."""

from disttune.config.schemes import Scheme
from disttune.quantize.parameters import FloatArray, Levels, Range, is_symmetric, levels_of
from disttune.quantize.statistics.tensor_statistics import TensorStatistics
from disttune.quantize.thresholds.clip_search import NOISE, ClipSearch
from disttune.quantize.thresholds.density import Density
from disttune.quantize.thresholds.registry import register_slice_threshold, register_threshold
from disttune.quantize.thresholds.slices import Ranges, Slices, least_error, squares


@register_threshold("mse")
def mse(statistics: TensorStatistics, scheme: Scheme) -> Range:
    """The range for which the quantizer of the scheme has the least squared error over the values."""
    density = Density.of(statistics)

    def cost(rmin: FloatArray, rmax: FloatArray) -> FloatArray:
        return squared_error(density, levels_of(rmin, rmax, scheme))

    return ClipSearch(cost, noise=noise_of(density)).best(density, is_symmetric(scheme))


def noise_of(density: Density) -> float:
    """What `squared_error` may be off by: a part of the error that level 0 alone would have."""
    return density.squares * NOISE


def squared_error(density: Density, quantizers: Levels) -> FloatArray:
    """Sum of the squared errors of each quantizer, saturation included, shape (n,).

    With level 0 alone it would be the sum of x**2. Each rounding edge e that a value x lies beyond, seen from
    zero, lowers its error by 2 |x - e| times the gap of the levels there.
    """
    saved = quantizers.gaps * density.distances_beyond(quantizers.edges)
    error: FloatArray = density.squares - 2 * saved.sum(axis=1)
    return error


@register_slice_threshold("mse")
def slice_mse(slices: Slices) -> Ranges:
    """The range of each slice with the least squared error."""
    return least_error(slices, squares)
