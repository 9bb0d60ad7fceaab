"""Mean squared error between output and target."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from disttune.config.errors import TrialError
from disttune.evaluate.metrics.registry import Scores, register_metric


@register_metric("mse", higher_is_better=False, target="output")
def mse(outputs: Sequence[NDArray[Any]], targets: NDArray[Any]) -> Scores:
    """Mean of (output - target)^2 over the elements of each sample, in float64.

    Args:
        outputs: the first one counts, shape (n, ...).
        targets: as many elements for each sample, shape (n, ...).
    Returns:
        Scores, shape (n,); 0 for equal ones.
    Raises:
        TrialError: the shapes do not fit.
    """
    output = outputs[0]
    if output.size != targets.size or output.shape[:1] != targets.shape[:1]:
        raise TrialError(f"mse needs a target of the output's shape {output.shape}; found {targets.shape}")
    difference = output.astype(np.float64) - targets.reshape(output.shape).astype(np.float64)
    scores: Scores = np.square(difference).reshape(len(output), -1).mean(axis=1)
    return scores
