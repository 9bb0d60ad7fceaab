"""MinMax: everything observed is in range."""

from disttune.config.schemes import Scheme
from disttune.quantize.parameters import Range
from disttune.quantize.statistics.tensor_statistics import TensorStatistics
from disttune.quantize.thresholds.registry import register_slice_threshold, register_threshold
from disttune.quantize.thresholds.slices import Ranges, Slices


@register_threshold("minmax")
def minmax(statistics: TensorStatistics, _scheme: Scheme) -> Range:
    """From the least to the greatest value observed."""
    return statistics.minimum, statistics.maximum


@register_slice_threshold("minmax")
def whole_slices(slices: Slices) -> Ranges:
    """The least and the greatest value of each slice."""
    return slices.low, slices.high
