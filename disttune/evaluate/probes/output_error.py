"""The error of a tensor against the float model's: mean squared error over the float tensor's variance."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

LEAST_VARIANCE = 1e-12  # of a tensor that is constant


def normalised_error(reference: NDArray[np.generic], found: NDArray[np.generic]) -> float:
    """Mean squared error over the variance of the reference.

    Args:
        reference: of the float model, any shape.
        found: of the quantized model, the same shape.
    Returns:
        0 for equal tensors; elements that are not finite in either (masks) do not count.
    """
    a, b = np.asarray(reference, np.float64).ravel(), np.asarray(found, np.float64).ravel()
    counts = np.isfinite(a) & np.isfinite(b)
    if not counts.any():
        return 0.0
    error = float(np.mean((a[counts] - b[counts]) ** 2))
    return error / max(float(np.var(a[counts])), LEAST_VARIANCE)


def mean_error(references: Sequence[NDArray[np.generic]], found: Sequence[NDArray[np.generic]]) -> float:
    """Mean of the errors of several tensors; those that hold no numbers do not count."""
    errors = [
        normalised_error(a, b)
        for a, b in zip(references, found, strict=True)
        if np.issubdtype(np.asarray(a).dtype, np.number) and a.shape == b.shape
    ]
    return sum(errors) / len(errors) if errors else 0.0
