"""Output and target of each sample side by side, as metrics against the float outputs compare them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from disttune.config.errors import TrialError

Rows = NDArray[np.float64]


def sample_pairs(metric: str, outputs: Sequence[NDArray[Any]], targets: NDArray[Any]) -> tuple[Rows, Rows]:
    """The first output and the targets in float64, a sample in each row, shape (n, n_values) both.

    Raises:
        TrialError: the shapes do not fit.
    """
    output = outputs[0]
    if output.size != targets.size or output.shape[:1] != targets.shape[:1]:
        raise TrialError(
            f"{metric} needs a target of the output's shape {output.shape}; found {targets.shape}"
        )
    x, y = (a.reshape(len(a), -1).astype(np.float64) for a in (output, targets))
    return x, y
