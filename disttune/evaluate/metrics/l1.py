"""Mean absolute error between output and target."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from disttune.evaluate.metrics.pairs import sample_pairs
from disttune.evaluate.metrics.registry import Scores, register_metric


@register_metric("l1", higher_is_better=False, target="output", best_score=0.0)
def l1(outputs: Sequence[NDArray[Any]], targets: NDArray[Any]) -> Scores:
    """Mean of |output - target| over the elements of each sample, in float64.

    Args:
        outputs: the first one counts, shape (n, ...).
        targets: as many elements for each sample, shape (n, ...).
    Returns:
        Scores, shape (n,); 0 for equal ones.
    Raises:
        TrialError: the shapes do not fit.
    """
    x, y = sample_pairs("l1", outputs, targets)
    scores: Scores = np.abs(x - y).mean(axis=1)
    return scores
