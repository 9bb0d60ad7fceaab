"""Distribution: give a float8 type's codes the spread of the values."""

import math

import numpy as np

from disttune.config.schemes import FLOAT8_DTYPES, Scheme
from disttune.quantize.parameters import Range, float8_max, float8_std
from disttune.quantize.statistics.tensor_statistics import TensorStatistics
from disttune.quantize.thresholds.density import Density
from disttune.quantize.thresholds.registry import register_slice_threshold, register_threshold
from disttune.quantize.thresholds.slices import Ranges, Slices


@register_threshold("distribution", clamped=False)
def distribution(statistics: TensorStatistics, scheme: Scheme) -> Range:
    """The range for which scale = standard deviation of the values / standard deviation of the codes.

    It may be wider than what was observed: a float8 type loses nothing by that. Integer types have no
    distribution of codes to match, and values that are all equal have no spread: these take the observed
    range.
    Source: onnxruntime 1.31, compute_scale_zp_float8, which takes the deviation from a histogram as well.
    """
    if scheme.dtype not in FLOAT8_DTYPES or statistics.minimum == statistics.maximum:
        return statistics.minimum, statistics.maximum
    density = Density.of(statistics)
    variance = density.squares / statistics.n - (density.total / statistics.n) ** 2
    reach = math.sqrt(max(variance, 0.0)) / float8_std(scheme.dtype) * float8_max(scheme.dtype)
    return -reach, reach


@register_slice_threshold("distribution")
def slice_distributions(slices: Slices) -> Ranges:
    """The same with the deviation of each slice."""
    if slices.scheme.dtype not in FLOAT8_DTYPES:
        return slices.low, slices.high
    std = slices.rows.std(axis=1, dtype=np.float64)
    reach = std / float8_std(slices.scheme.dtype) * float8_max(slices.scheme.dtype)
    return np.where(std > 0, -reach, slices.low), np.where(std > 0, reach, slices.high)
