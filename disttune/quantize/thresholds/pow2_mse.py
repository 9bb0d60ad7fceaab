"""Power of two with the least squared error."""

import numpy as np

from disttune.config.schemes import FLOAT8_DTYPES, Scheme
from disttune.quantize.parameters import (
    FloatArray,
    Range,
    code_range,
    float8_max,
    is_symmetric,
    levels_of,
    parameter_arrays,
)
from disttune.quantize.statistics.tensor_statistics import TensorStatistics
from disttune.quantize.thresholds.clip_search import widest_of_least
from disttune.quantize.thresholds.density import Density
from disttune.quantize.thresholds.mse import noise_of, squared_error
from disttune.quantize.thresholds.registry import register_slice_threshold, register_threshold
from disttune.quantize.thresholds.slices import Ranges, Slices, least_error_of, squares

_N_SCALES = 8
_N_PLACES = 17


@register_threshold("pow2_mse")
def pow2_mse(statistics: TensorStatistics, scheme: Scheme) -> Range:
    """The range with the least squared error of eight scales: the one that does not overflow and its halves.

    An asymmetric range of a smaller scale is tried at up to 17 places within the observed one.
    Source: Quark, PowerOfTwo MinMSE ("All"). Without its scale above the one that does not overflow: the
    levels of that are among those of the next.
    """
    density = Density.of(statistics)
    rmin, rmax = (ends[0] for ends in pow2_ranges(density.edges[:1], density.edges[-1:], scheme))
    error = squared_error(density, levels_of(rmin, rmax, scheme))
    best = widest_of_least(error, rmax - rmin, noise_of(density))
    return float(rmin[best]), float(rmax[best])


def pow2_ranges(low: FloatArray, high: FloatArray, scheme: Scheme) -> tuple[FloatArray, FloatArray]:
    """Ranges within observed ones for which `parameters` gives the scales to try.

    Args:
        low, high: ends of n observed ranges, shape (n,); low <= 0 <= high.
        scheme: of the quantizer.
    Returns:
        rmin and rmax, shape (n, n_ranges); the observed range first. Some may be tried twice.
    """
    whole = parameter_arrays(low, high, scheme)[0].astype(np.float64)
    scales = whole[:, None] * 0.5 ** np.arange(1.0, _N_SCALES)
    if is_symmetric(scheme):
        reach = scales * _symmetric_reach(scheme)
        rmin, rmax = -reach, reach
    else:
        first, last = code_range(scheme.dtype, reduce_range=scheme.reduce_range)
        # from the lowest zero point that stays below the upper end to the highest
        least = np.clip(np.ceil(last - high[:, None] / scales), first, last)
        most = np.clip(np.floor(first - low[:, None] / scales), least, last)
        places = np.linspace(0.0, 1.0, _N_PLACES)
        zero_points = np.rint(least[..., None] + (most - least)[..., None] * places)
        rmin = ((first - zero_points) * scales[..., None]).reshape(low.size, -1)
        rmax = ((last - zero_points) * scales[..., None]).reshape(low.size, -1)
    observed = low[:, None], high[:, None]
    return (
        np.concatenate((observed[0], np.maximum(rmin, observed[0])), axis=1),
        np.concatenate((observed[1], np.minimum(rmax, observed[1])), axis=1),
    )


def _symmetric_reach(scheme: Scheme) -> float:
    """Largest magnitude of a symmetric range of scale 1."""
    if scheme.dtype in FLOAT8_DTYPES:
        return float8_max(scheme.dtype)
    first, last = code_range(scheme.dtype, True, reduce_range=scheme.reduce_range)
    return (last - first) / 2


@register_slice_threshold("pow2_mse")
def slice_pow2_mse(slices: Slices) -> Ranges:
    """The range of each slice with the least squared error, of the same candidates."""

    def candidates(part: Slices) -> Ranges:
        return pow2_ranges(part.low, part.high, part.scheme)

    return least_error_of(slices, candidates, squares)
