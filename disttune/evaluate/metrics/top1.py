"""Share of samples whose greatest logit is at their label."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from disttune.config.errors import TrialError
from disttune.evaluate.metrics.registry import Scores, register_metric


@register_metric("top1", higher_is_better=True, best_score=1.0, worst_score=0.0)
def top1(outputs: Sequence[NDArray[Any]], targets: NDArray[Any]) -> Scores:
    """1 for a sample whose greatest logit is at its label, else 0; the first one on a tie.

    Args:
        outputs: the first one holds logits or probabilities, shape (n, n_classes, ...).
        targets: class numbers, shape (n,), or (n, ...) for one label at each position.
    Returns:
        Scores, shape (n,): with several positions the share of them that hit. NaN where a logit is.
    Raises:
        TrialError: there are no class axis or no label for each sample.
    """
    logits = outputs[0]
    if logits.ndim < 2 or logits.shape[1] < 2:
        raise TrialError(f"top1 needs logits of shape (samples, classes, ...); the output has {logits.shape}")
    found = logits.argmax(axis=1)
    if targets.size != found.size or targets.shape[:1] != found.shape[:1]:
        mend = "; make numbers from one-hot labels with .argmax(1)" if targets.shape == logits.shape else ""
        raise TrialError(f"top1 needs labels of shape {found.shape}; found {targets.shape}{mend}")
    hits = np.where(np.isnan(logits).any(axis=1), np.nan, found == targets.reshape(found.shape))
    scores: Scores = hits.reshape(len(found), -1).mean(axis=1)
    return scores
