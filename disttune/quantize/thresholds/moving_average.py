"""Moving average: the range that single samples usually have, later samples counting more."""

import numpy as np

from disttune.config.schemes import Scheme
from disttune.quantize.parameters import FloatArray, Range
from disttune.quantize.statistics.tensor_statistics import TensorStatistics
from disttune.quantize.thresholds.registry import parameter_of, register_slice_threshold, register_threshold
from disttune.quantize.thresholds.slices import Ranges, Slices


@register_threshold("ema")
def moving_average(statistics: TensorStatistics, scheme: Scheme) -> Range:
    """Exponential moving average of each sample's minimum and maximum, in the order of the samples.

    e_1 = r_1, e_t = e_{t-1} + c (r_t - e_{t-1}), c being the scheme's parameter. Where onnxruntime averages
    over the chunks of data it happens to get, this is over samples: it depends on nothing else.
    """
    weights = _weights(statistics.sample_minima.size, parameter_of(scheme))
    return (
        float((weights * statistics.sample_minima).sum()),
        float((weights * statistics.sample_maxima).sum()),
    )


def _weights(n: int, constant: float) -> FloatArray:
    """Share of each of n samples in the last average."""
    weights = (1 - constant) ** np.arange(n - 1, -1, -1, dtype=np.float64)
    weights[1:] *= constant
    return weights


@register_slice_threshold("ema")
def whole_slices(slices: Slices) -> Ranges:
    """A weight is one sample."""
    return slices.low, slices.high
