"""Distribution: give a float8 type's codes the spread of the values."""

import numpy as np

from disttune.config.schemes import FLOAT8_DTYPES, Scheme
from disttune.quantize.parameters import Range, float8_max, float8_std
from disttune.quantize.statistics.tensor_statistics import TensorStatistics
from disttune.quantize.thresholds.registry import register_slice_threshold, register_threshold
from disttune.quantize.thresholds.slices import Ranges, Slices

_NO_SPREAD = 1e-6  # of the mean: what rounding leaves of a deviation of zero


@register_threshold("distribution", clamped=False)
def distribution(statistics: TensorStatistics, scheme: Scheme) -> Range:
    """The range for which scale = standard deviation of the values / standard deviation of the codes.

    It may be wider than what was observed: a float8 type loses nothing by that. Integer types have no
    distribution of codes to match, and values that are all equal have no spread: these take the observed
    range.
    Source: onnxruntime 1.31, compute_scale_zp_float8, with the exact deviation instead of a histogram's.
    """
    if scheme.dtype not in FLOAT8_DTYPES or statistics.std <= abs(statistics.mean) * _NO_SPREAD:
        return statistics.minimum, statistics.maximum
    reach = statistics.std / float8_std(scheme.dtype) * float8_max(scheme.dtype)
    return -reach, reach


@register_slice_threshold("distribution")
def slice_distributions(slices: Slices) -> Ranges:
    """The same with the deviation of each slice."""
    if slices.scheme.dtype not in FLOAT8_DTYPES:
        return slices.low, slices.high
    std = slices.rows.std(axis=1, dtype=np.float64)
    reach = std / float8_std(slices.scheme.dtype) * float8_max(slices.scheme.dtype)
    return np.where(std > 0, -reach, slices.low), np.where(std > 0, reach, slices.high)
