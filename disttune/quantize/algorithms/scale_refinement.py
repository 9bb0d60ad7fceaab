"""Scale refinement: with the codes as they are, the scale of each group that loses least, in closed form.

With u = code - zero point of one group and column, and v the values of its other groups, the error
(w - s u - v)^T H (w - s u - v) has its least at s* = s + u^T H e / (u^T H u), e the error as it stands.
Groups go one after the other, each with the errors that those before it left: the loss only falls.
"""

from dataclasses import replace

import numpy as np

from disttune.quantize.algorithms.layer import Floats
from disttune.quantize.algorithms.objective import Objective
from disttune.quantize.algorithms.rounded import Rounded

_MOST_CHANGE = 2.0  # of a scale, up or down: beyond it the codes no longer suit it


def refined(found: Rounded, objectives: list[Objective]) -> Rounded:
    """The same codes with better scales; a column (a tensor with one scale) that would lose keeps its own."""
    scale = _refined_scales(found, objectives).astype(np.float32)
    better = replace(found, grid=replace(found.grid, scale=scale))
    return found.or_cheaper(better, found.losses(objectives), better.losses(objectives))


def _refined_scales(found: Rounded, objectives: list[Objective]) -> Floats:
    n_rows = found.codes.shape[1]
    size = found.grid.group_size or max(n_rows, 1)
    codes = found.codes - found.grid.zeros(n_rows)
    old = found.grid.scale.astype(np.float64)
    if old.size == 1:
        moments = [_moments(objective, codes[i], old[0]) for i, objective in enumerate(objectives)]
        along, square = (np.sum(both).reshape(old.shape) for both in zip(*moments, strict=True))
        return _moved(old, along, square)
    scales = old.copy()
    for i, objective in enumerate(objectives):
        for group in range(old.shape[1]):
            rows = slice(group * size, (group + 1) * size)
            each_row = np.repeat(scales[i], size, axis=0)[:n_rows]
            along, square = _moments(objective, codes[i], each_row, rows)
            scales[i, group] = _moved(old[i, group], along, square)
    return scales


def _moments(
    objective: Objective, codes: Floats, scale: Floats, rows: slice = slice(None)
) -> tuple[Floats, Floats]:
    """u^T H e and u^T H u of each column; u: codes of these rows, scale: of every row or one."""
    u = codes[rows]
    error = objective.weight - scale * codes
    along = np.einsum("kn,kn->n", u, objective.gram[rows] @ error)
    return along, np.einsum("kn,kn->n", u, objective.gram[rows, rows] @ u)


def _moved(scale: Floats, along: Floats, square: Floats) -> Floats:
    """Scales at the least error, or as they were where there is none to find."""
    known = square > 0
    best = scale + np.where(known, along, 0.0) / np.where(known, square, 1.0)
    near = (best > np.abs(scale) / _MOST_CHANGE) & (best < np.abs(scale) * _MOST_CHANGE)
    return np.where(near & (best > np.finfo(np.float32).tiny), best, scale)
