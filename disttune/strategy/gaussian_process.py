"""A Gaussian process over points in a box, and expected improvement; higher scores are better.

scikit-learn is imported when one is made. Callers keep BLAS on one thread.
Source: Jones, Schonlau and Welch 1998 (expected improvement).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

DIGITS = 9  # of the improvement: BLAS may differ in the last ones


def fitted(x: "np.ndarray", y: Sequence[float]) -> Any:
    """The process, its kernel fitted, from points of shape (n, n_dimensions) and their scores."""
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import Matern, WhiteKernel

    kernel = Matern(nu=2.5, length_scale_bounds=(1e-1, 1e2)) + WhiteKernel(1e-3, (1e-8, 1.0))
    return GaussianProcessRegressor(kernel, normalize_y=True, random_state=0).fit(x, y)


def with_points(process: Any, x: "np.ndarray", y: Sequence[float]) -> Any:
    """The process with the same kernel over more points."""
    from sklearn.gaussian_process import GaussianProcessRegressor

    return GaussianProcessRegressor(process.kernel_, optimizer=None, normalize_y=True).fit(x, y)


def expected_improvement(process: Any, x: "np.ndarray", best: float) -> "np.ndarray":
    """Of points x over the best score, as a share of the greatest; shape (n,)."""
    import numpy as np
    from scipy.special import ndtr

    mean, deviation = process.predict(x, return_std=True)
    deviation = np.maximum(deviation, 1e-12)
    z = (mean - best) / deviation
    density = np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)
    improvement: np.ndarray = deviation * (z * ndtr(z) + density)
    scale = float(np.max(improvement))
    return np.round(improvement / (scale or 1.0), DIGITS)
