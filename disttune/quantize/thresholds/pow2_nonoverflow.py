"""Power of two without overflow: the observed range, with the next power of two as scale."""

from disttune.config.schemes import Scheme
from disttune.quantize.parameters import Range
from disttune.quantize.statistics.tensor_statistics import TensorStatistics
from disttune.quantize.thresholds.registry import register_slice_threshold, register_threshold
from disttune.quantize.thresholds.slices import Ranges, Slices


@register_threshold("pow2_nonoverflow")
def pow2_nonoverflow(statistics: TensorStatistics, _scheme: Scheme) -> Range:
    """From the least to the greatest value; `parameters` makes the scale a power of two.

    It is raised to one, so that nothing clips. (Quark takes the nearest, which can clip.)
    """
    return statistics.minimum, statistics.maximum


@register_slice_threshold("pow2_nonoverflow")
def whole_slices(slices: Slices) -> Ranges:
    """The least and the greatest value of each slice."""
    return slices.low, slices.high
