"""Euclidean distance between output and target."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from disttune.evaluate.metrics.pairs import sample_pairs
from disttune.evaluate.metrics.registry import Scores, register_metric


@register_metric("l2", higher_is_better=False, target="output", best_score=0.0)
def l2(outputs: Sequence[NDArray[Any]], targets: NDArray[Any]) -> Scores:
    """Root of the sum of (output - target)^2 over the elements of each sample, in float64.

    Args:
        outputs: the first one counts, shape (n, ...).
        targets: as many elements for each sample, shape (n, ...).
    Returns:
        Scores, shape (n,); 0 for equal ones.
    Raises:
        TrialError: the shapes do not fit.
    """
    x, y = sample_pairs("l2", outputs, targets)
    scores: Scores = np.sqrt(np.square(x - y).sum(axis=1))
    return scores
