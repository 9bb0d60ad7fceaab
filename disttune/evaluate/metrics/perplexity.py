"""Perplexity of a language model over windows of tokens."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from disttune.config.errors import TrialError
from disttune.evaluate.metrics.registry import Scores, register_metric

_MOST = 700.0  # what exp can take


def of_mean(scores: Scores) -> float:
    """Perplexity from the mean negative log likelihoods of windows."""
    return float(np.exp(np.minimum(scores.mean(), _MOST)))


@register_metric("perplexity", higher_is_better=False, target="next_tokens", reduce=of_mean, best_score=0.0)
def perplexity(outputs: Sequence[NDArray[Any]], targets: NDArray[Any]) -> Scores:
    """Mean negative log likelihood of each window's labels, in nats; the metric is exp of their mean.

    Args:
        outputs: the first one holds logits, shape (n, positions, vocabulary).
        targets: the token that comes at each position, shape (n, positions); below zero: none.
    Returns:
        Scores, shape (n,): of windows with as many labels each, the mean is that over tokens.
    Raises:
        TrialError: the shapes do not fit, a label is none of the vocabulary, or a window has no label.
    """
    logits = outputs[0]
    if logits.ndim != 3 or targets.shape != logits.shape[:2]:
        raise TrialError(
            "perplexity needs logits of shape (windows, positions, vocabulary) and as many labels; "
            f"found {logits.shape} and {targets.shape}"
        )
    counted = targets >= 0
    if targets.max(initial=0) >= logits.shape[2] or not counted.any(axis=1).all():
        raise TrialError(
            f"perplexity: labels go up to {targets.max()}, the vocabulary has {logits.shape[2]} tokens, and "
            "every window needs a label"
        )
    values = logits.astype(np.float64)
    values -= values.max(axis=2, keepdims=True)
    picked = np.take_along_axis(values, np.where(counted, targets, 0)[..., None], axis=2)[..., 0]
    losses = np.log(np.exp(values).sum(axis=2)) - picked
    scores: Scores = np.where(counted, losses, 0).sum(axis=1) / counted.sum(axis=1)
    return scores
