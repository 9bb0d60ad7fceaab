"""AdaRound, AdaQuant and SeqMSE as slow plain formulas, for tests to compare with."""

import itertools

import numpy as np

from disttune.quantize.algorithms.grid import Grid
from disttune.quantize.algorithms.layer import Floats


def soft_loss(
    a: Floats, x: Floats, fraction: Floats, scale: Floats, rest: Floats, reg_param: float, beta: float
) -> float:
    """AdaRound's loss of one column, from the inputs themselves: |X s (f - h)|^2 + the penalty.

    Args:
        a: free variables, shape (K,); h = clip(1.2 / (1 + exp(-a)) - 0.1, 0, 1).
        x: inputs, shape (T, K).
        fraction: of each weight between its two codes, shape (K,).
        scale: of each weight, shape (K,).
        rest: outputs lost by what cannot be chosen, shape (T,).
        reg_param: times s^2 H_kk / 2 is the penalty's factor.
        beta: its power.
    """
    h = np.clip(1.2 / (1 + np.exp(-a)) - 0.1, 0, 1)
    error = x @ (scale * (fraction - h)) + rest
    factors = reg_param * scale**2 * np.square(x).sum(axis=0)
    return float(error @ error + (factors * (1 - np.abs(2 * h - 1) ** beta)).sum())


def least_rounding_loss(x: Floats, weight: Floats, grid: Grid) -> float:
    """|X w - X v|^2 of the best of all 2^K ways to round one column up or down; weight of shape (K, 1)."""
    n_rows = len(weight)
    low = np.floor(weight / grid.steps(n_rows)[0] + grid.zeros(n_rows)[0])
    losses = []
    for up in itertools.product((0, 1), repeat=n_rows):
        codes = np.clip(low + np.reshape(up, (n_rows, 1)), *grid.codes).astype(np.int32)
        losses.append(np.square(x @ (weight - grid.values(codes[None])[0])).sum())
    return float(min(losses))


def searched_ranges(x: Floats, weight: Floats, codes: tuple[int, int], zero: int, n: int) -> Floats:
    """Least |X w - X Q(w)|^2 of each column over the ranges max |w| times 0.2 to 1, by matmul on the inputs.

    Args:
        x: shape (T, K).
        weight: shape (K, N).
        codes: lowest and highest, of a symmetric type; `zero`: its zero point.
        n: candidates.
    """
    least = np.full(weight.shape[1], np.inf)
    step = np.float32(2 * np.abs(weight).max(axis=0) / (codes[1] - codes[0]))
    widest = (codes[1] - codes[0]) / 2 / min(zero - codes[0], codes[1] - zero)
    for ratio in [*np.linspace(1, 0.2, n), widest]:
        scale = step * np.float32(ratio)
        q = np.clip(np.rint(np.float32(weight) / scale) + zero, *codes)
        least = np.minimum(least, np.square(x @ (weight - (q - zero) * scale.astype(float))).sum(axis=0))
    return least
