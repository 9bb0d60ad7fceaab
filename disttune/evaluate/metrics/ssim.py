"""Structural similarity of output and target."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from disttune.evaluate.metrics.pairs import sample_pairs
from disttune.evaluate.metrics.registry import Scores, register_metric

K1, K2 = 0.01, 0.03


@register_metric("ssim", higher_is_better=True, target="output")
def ssim(outputs: Sequence[NDArray[Any]], targets: NDArray[Any]) -> Scores:
    """Structural similarity over each whole sample as one window, in float64.

    Args:
        outputs: the first one counts, shape (n, ...).
        targets: as many elements for each sample, shape (n, ...).
    Returns:
        Scores in [-1, 1], shape (n,): 1 for equal ones.
    Raises:
        TrialError: the shapes do not fit.
    Source: Wang et al. 2004, equation 13. The range of values is the target's own, not 255.
    """
    x, y = sample_pairs("ssim", outputs, targets)
    span = y.max(axis=1) - y.min(axis=1)
    span = np.where(span > 0, span, np.maximum(np.abs(y).max(axis=1), np.finfo(np.float32).tiny))
    c1, c2 = np.square(K1 * span), np.square(K2 * span)
    mean_x, mean_y = x.mean(axis=1), y.mean(axis=1)
    dx, dy = x - mean_x[:, None], y - mean_y[:, None]
    means = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    scores: Scores = means * (2 * (dx * dy).mean(axis=1) + c2) / ((dx * dx + dy * dy).mean(axis=1) + c2)
    return scores
