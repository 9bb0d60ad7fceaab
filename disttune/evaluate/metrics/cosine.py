"""Cosine of the angle between output and target."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from disttune.evaluate.metrics.pairs import sample_pairs
from disttune.evaluate.metrics.registry import Scores, register_metric


@register_metric("cosine", higher_is_better=True, target="output", best_score=1.0, worst_score=-1.0)
def cosine(outputs: Sequence[NDArray[Any]], targets: NDArray[Any]) -> Scores:
    """Cosine similarity of each sample's output and target, both flattened, in float64.

    Args:
        outputs: the first one counts, shape (n, ...).
        targets: as many elements for each sample, shape (n, ...).
    Returns:
        Scores in [-1, 1], shape (n,): exactly 1 for equal ones (two zero vectors too), 0 where only
        one of them is zero.
    Raises:
        TrialError: the shapes do not fit.
    """
    x, y = sample_pairs("cosine", outputs, targets)
    xx, yy, xy = (x * x).sum(axis=1), (y * y).sum(axis=1), (x * y).sum(axis=1)
    # sqrt(a * a) == a in IEEE arithmetic, so equal vectors give exactly 1; sqrt(a) * sqrt(a) would not
    lengths = np.sqrt(xx * yy)
    both_zero = (xx == 0) & (yy == 0)
    scores: Scores = np.divide(xy, lengths, out=both_zero.astype(np.float64), where=lengths != 0)
    return np.clip(scores, -1.0, 1.0)
