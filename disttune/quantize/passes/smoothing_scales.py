"""How much of each channel's outliers goes from an activation into the weights that read it.

1. s = max|x|^alpha / max|w|^(1 - alpha) for each channel; 1 where one of the two is 0.
2. A common factor changes nothing: the geometric mean over the live channels is made 1; then s is kept
   between 1/1000 and 1000.
3. alpha "auto": of 0.1, 0.15 ... 0.9 and no smoothing at all, the one with the least expected error of
   the outputs, summed over all weights that read the activation:
   sum over outputs of E[(d x')^2], d the rounding error of the weight (int8, symmetric, with a scale for each
   output or one for all: what is best for the one harms the other), plus sum of w'^2 times step^2 / 12, the
   noise of uint8 activations with one scale. E[x' x'^T] is taken from mean and variance of each channel, as
   if channels were independent.

Source: Xiao et al. 2022 (arXiv:2211.10438), equation 4. Rule 3 replaces the search by inference of INC 2.6.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from disttune.quantize.linear import Floats, Linear
from disttune.quantize.statistics.channels import ChannelStatistics

ALPHAS = tuple(round(0.1 + 0.05 * i, 2) for i in range(17))
_LARGEST = 1000.0
_INT8_MAX = 127
_UINT8_STEPS = 255


def smoothing_scale(absmax: Floats, weight_max: Floats, alpha: float) -> Floats:
    """Rules 1 and 2: what activations are divided by, and weights multiplied with.

    Args:
        absmax: largest magnitude of the activation in each channel, shape (K,).
        weight_max: largest magnitude of the weights that read it, shape (K,).
        alpha: from 0 to 1.
    """
    live = (absmax > 0) & (weight_max > 0) & np.isfinite(absmax)
    if not live.any():
        return np.ones_like(absmax)
    log = alpha * np.log(np.where(live, absmax, 1.0)) - (1 - alpha) * np.log(np.where(live, weight_max, 1.0))
    log = np.where(live, log - log[live].mean(), 0.0)
    return np.asarray(np.clip(np.exp(log), 1 / _LARGEST, _LARGEST))


def best_alpha(
    statistics: ChannelStatistics, readers: Sequence[Linear], *, per_tensor: bool = False
) -> float | None:
    """Rule 3; None when no smoothing is best. Of equal losses the smaller alpha.

    Args:
        per_tensor: whether weights have one scale.
    """
    weight_max = np.maximum.reduce([reader.input_max() for reader in readers])
    nothing = np.ones_like(weight_max)
    best, least = None, expected_loss(statistics, readers, nothing, per_tensor=per_tensor)
    for alpha in ALPHAS:
        scale = smoothing_scale(statistics.absmax, weight_max, alpha)
        loss = expected_loss(statistics, readers, scale, per_tensor=per_tensor)
        if loss < least:
            best, least = alpha, loss
    return best


def expected_loss(
    statistics: ChannelStatistics, readers: Sequence[Linear], scale: Floats, *, per_tensor: bool = False
) -> float:
    """Expected squared error for each row of the input, summed over the outputs; see rule 3.

    Args:
        scale: that the activation is divided by, shape (K,).
        per_tensor: whether weights have one scale.
    """
    low = min(float((statistics.minimum / scale).min()), 0.0)
    high = max(float((statistics.maximum / scale).max()), 0.0)
    step = (high - low) / _UINT8_STEPS
    mean = statistics.mean / scale
    variance = np.maximum(statistics.squares / max(statistics.n, 1) - statistics.mean**2, 0) / scale**2
    noise = step**2 / 12
    return sum(_loss(reader, scale, mean, variance, noise, per_tensor) for reader in readers)


def _loss(
    reader: Linear, scale: Floats, mean: Floats, variance: Floats, noise: float, per_tensor: bool
) -> float:
    n_groups, n_inputs = reader.weight.shape[:2]
    by_group = (n_groups, n_inputs, 1, 1)
    weight = reader.weight.astype(np.float32) * scale.reshape(by_group).astype(np.float32)
    largest = np.abs(weight).max(axis=None if per_tensor else (1, 3), keepdims=True)
    steps = np.where(largest > 0, largest / _INT8_MAX, 1)
    error = np.rint(weight / steps) * steps - weight
    spread = np.einsum("giot,gi->", error**2, variance.reshape(n_groups, n_inputs), dtype=np.float64)
    shift = np.einsum("giot,gi->go", error, mean.reshape(n_groups, n_inputs), dtype=np.float64)
    return float(spread + (shift**2).sum() + noise * np.square(weight, dtype=np.float64).sum())
