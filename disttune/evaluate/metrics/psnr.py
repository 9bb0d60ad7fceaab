"""Peak signal-to-noise ratio of output against target, in decibels."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from disttune.evaluate.metrics.pairs import sample_pairs
from disttune.evaluate.metrics.registry import Scores, register_metric

MOST_DB = 100.0  # of equal ones too, so that the float model has a finite baseline


@register_metric("psnr", higher_is_better=True, target="output", best_score=MOST_DB, worst_score=-MOST_DB)
def psnr(outputs: Sequence[NDArray[Any]], targets: NDArray[Any]) -> Scores:
    """20 log10(max|target| / root mean squared error) of each sample, in float64.

    Args:
        outputs: the first one counts, shape (n, ...).
        targets: as many elements for each sample, shape (n, ...).
    Returns:
        Scores in dB from -100 to 100, shape (n,).
    Raises:
        TrialError: the shapes do not fit.
    """
    x, y = sample_pairs("psnr", outputs, targets)
    error = np.sqrt(np.square(x - y).mean(axis=1))
    peak = np.abs(y).max(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        decibels = 20 * (np.log10(peak) - np.log10(error))
    scores: Scores = np.where(error == 0, MOST_DB, np.clip(decibels, -MOST_DB, MOST_DB))
    return scores
