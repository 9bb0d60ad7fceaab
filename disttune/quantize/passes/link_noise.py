"""What rounding between two linear ops costs: predicted noise of a link's outputs over their power.

For a link (see `layer_links`) whose channel i is divided by S_i, with int8 weights and uint8 activations:
1. rounding W1: steps d1, seen through W2: sum over i of (S_i d1)^2 / 12 sum E[x^2] |W2_i|^2;
2. rounding the activation between, one scale for all: da^2 / 12, sum over i of S_i^2 |W2_i|^2;
3. rounding W2: steps d2, of every output: d2^2 / 12, sum over i of E[a_i^2] / S_i^2.
All over the sum of E[a_i^2] |W2_i|^2, channels and errors taken as independent.
"""

from collections.abc import Mapping

import numpy as np

from disttune.quantize.linear import Floats, Linear
from disttune.quantize.passes.layer_links import Link
from disttune.quantize.statistics.channels import ChannelStatistics

_TINY = np.finfo(np.float64).tiny


def noise_tensors(link: Link) -> dict[str, int]:
    """What the ops of a link read, with the axis of its channels."""
    return {op.node.input[0]: 1 if op.is_image else -1 for op in (link.first, *link.seconds)}


def link_noise(
    link: Link, factor: Floats, channels: Mapping[str, ChannelStatistics], *, per_tensor: bool
) -> float:
    """The noise of a link's outputs over their power, summed over its seconds.

    Args:
        link: as it is in the float model.
        factor: that channels of the first op's outputs are divided by, shape (n_outputs,).
        channels: of `noise_tensors`.
        per_tensor: whether weights have one scale, instead of one for each of their outputs.
    """
    first = link.first.weight
    n_groups, n_inputs, n_outputs, n_taps = first.shape
    steps = _steps(first / factor.reshape(n_groups, 1, n_outputs, 1), per_tensor)
    power = _power(channels[link.first.node.input[0]]).reshape(n_groups, n_inputs).sum(axis=1)
    rounded = np.square(steps * factor.reshape(n_groups, n_outputs)) * n_taps * power[:, None]
    noise = 0.0
    for second in link.seconds:
        found = channels[second.node.input[0]]
        spread = np.repeat(factor, link.repeat)
        noise += _of_data(second, spread, np.repeat(rounded.reshape(-1), link.repeat), found)
        noise += _of_weight(second, spread, found, per_tensor)
    return noise


def _of_data(second: Linear, factor: Floats, rounded: Floats, statistics: ChannelStatistics) -> float:
    """Rules 1 and 2."""
    norms = _norms(second)
    high, low = np.maximum(statistics.maximum, 0) / factor, np.minimum(statistics.minimum, 0) / factor
    step = (high.max(initial=0) - low.min(initial=0)) / 255
    noise = ((rounded + np.square(step * factor)) * norms).sum()
    return float(noise / 12 / max((_power(statistics) * norms).sum(), _TINY))


def _of_weight(second: Linear, factor: Floats, statistics: ChannelStatistics, per_tensor: bool) -> float:
    """Rule 3."""
    weight, power = second.weight, _power(statistics)
    n_groups, n_inputs, _, n_taps = weight.shape
    steps = _steps(weight * factor.reshape(n_groups, n_inputs, 1, 1), per_tensor)
    each = (power / np.square(factor)).reshape(n_groups, n_inputs).sum(axis=1)
    noise = (np.square(steps).sum(axis=1) * n_taps * each).sum()
    return float(noise / 12 / max((power * _norms(second)).sum(), _TINY))


def _steps(weight: Floats, per_tensor: bool) -> Floats:
    """Of each output's weights, shape (groups, outputs of a group)."""
    largest = np.abs(weight).max(axis=(1, 3), initial=0)
    return np.asarray(np.full_like(largest, largest.max(initial=0)) if per_tensor else largest) / 127


def _norms(linear: Linear) -> Floats:
    """|W_i|^2 of each input."""
    return np.asarray(np.square(linear.weight).sum(axis=(2, 3)).reshape(-1))


def _power(statistics: ChannelStatistics) -> Floats:
    return statistics.squares / max(statistics.n, 1)
