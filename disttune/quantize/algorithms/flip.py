"""Flip: of each column moves the code that lowers the output error most by one step, until none does.

With D = W - V and R = H D, a step s of the code (k, n) changes the error by s^2 H_kk - 2 s R_kn, a parabola:
so the end is a point that no change of a single code improves, by any number of steps.
Source: coordinate descent on the layer's error as Behdin et al. 2023 (QuantEase, arXiv:2309.01885); there
row after row, which ends 2 to 25 % higher on correlated inputs.
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from disttune.quantize.algorithms.grid import CodeArray, Grid, has_signed_scales
from disttune.quantize.algorithms.layer import Floats, LayerProblem, LayerSolution
from disttune.quantize.algorithms.objective import Objective
from disttune.quantize.algorithms.registry import register_layer_algorithm
from disttune.quantize.algorithms.rounded import Rounded
from disttune.quantize.parameters import Codes

_COLUMNS = 32  # moved at a time: what belongs to them stays in the processor's cache
_LEAST_GAIN = 1e-9  # of a full step's cost: less is rounding of sums, which could go round in circles
_LEAST_GAIN32 = 1e-4  # in float32
_MOST_MOVES = 20  # for each row; a hundredth of it is common


@register_layer_algorithm("flip")
class Flip:
    """Coordinate descent from plain rounding."""

    needs_inputs: ClassVar[bool] = True

    def solve(self, problem: LayerProblem) -> LayerSolution:
        plain = Rounded.plainly(problem.weight, problem.scheme, signed=has_signed_scales(problem.scheme))
        objectives = Objective.of_parts(problem)
        return descended(plain, objectives).solution(objectives, plain)


def descended(start: Rounded, objectives: list[Objective]) -> Rounded:
    """All parts of a layer after `descend`."""
    parts = enumerate(zip(objectives, start.codes, strict=True))
    return replace(start, codes=np.stack([descend(o, start.grid.part(i), codes) for i, (o, codes) in parts]))


def descend(objective: Objective, grid: Grid, codes: CodeArray) -> CodeArray:
    """Codes that no change of a single one improves, and that cost no more than those given.

    Nearly all moves are found in float32; float64 then goes on from the columns that lose less by them.

    Args:
        objective: of one part.
        grid: of the same part.
        codes: to start from, shape (K, N); not changed.
    """
    steps = np.ascontiguousarray(np.broadcast_to(grid.steps(len(codes))[0], codes.shape).T)
    start = _Turned.of(objective, grid, steps, codes.T)
    rough = start.in_float32()
    rough.descend(grid.codes, _LEAST_GAIN32)
    end = _Turned.of(objective, grid, steps, rough.codes)
    end.keep(start, end.losses > start.losses)
    end.descend(grid.codes, _LEAST_GAIN)
    return np.ascontiguousarray(end.codes.T)


@dataclass(frozen=True, slots=True, eq=False)
class _Turned:
    """Columns of a weight as rows, shape (N, K), and without the units of codes' steps.

    Args:
        gram: H, shape (K, K).
        slope: s (H D): half of what a step up gains at first.
        whole: s^2 H_kk, what a step costs.
        steps: s, or (N, 1) where a column has one.
        codes: they move along with the slope.
        losses: of each column, as it was at first, shape (N,).
    """

    gram: NDArray[Any]
    slope: NDArray[Any]
    whole: NDArray[Any]
    steps: NDArray[Any]
    codes: CodeArray
    losses: Floats

    @classmethod
    def of(cls, objective: Objective, grid: Grid, steps: Floats, codes: CodeArray) -> Self:
        error = objective.weight - grid.values(codes.T[None])[0]
        pull = objective.gram @ error
        return cls(
            gram=objective.gram,
            slope=np.ascontiguousarray(pull.T) * steps,
            whole=np.square(steps) * np.diag(objective.gram),
            steps=steps if grid.group_size else steps[:, :1],
            codes=codes.copy(),
            losses=np.einsum("kn,kn->n", error, pull),
        )

    def in_float32(self) -> Self:
        """A copy, every part divided by the mean cost of a step so that nothing is beyond float32."""
        size = np.sqrt(np.diag(self.gram).mean()) or 1.0
        step = self.steps.mean(axis=1, keepdims=True) * size
        return replace(
            self,
            gram=(self.gram / size**2).astype(np.float32),
            slope=(self.slope / step**2).astype(np.float32),
            whole=(self.whole / step**2).astype(np.float32),
            steps=(self.steps / step * size).astype(np.float32),
            codes=self.codes.copy(),
        )

    def keep(self, other: Self, which: NDArray[np.bool_]) -> None:
        """Take these columns of another."""
        self.slope[which], self.codes[which] = other.slope[which], other.codes[which]

    def descend(self, codes: Codes, least_gain: float) -> None:
        """Of each column move the code that gains most, until none gains this share of a step's cost."""
        for start in range(0, len(self.slope), _COLUMNS):
            which = slice(start, start + _COLUMNS)
            _descend(self._rows(which), codes, least_gain)

    def _rows(self, which: slice) -> Self:
        return replace(
            self,
            slope=self.slope[which],
            whole=self.whole[which],
            steps=self.steps[which],
            codes=self.codes[which],
        )


def _descend(turned: _Turned, codes: Codes, least_gain: float) -> None:
    """Codes at an end of their range are looked at once, and again when nothing else moves."""
    slope, least = turned.slope, -least_gain * turned.whole
    left = _MOST_MOVES * slope.shape[1]
    while left > 0:
        blocked = np.where(slope > 0, turned.codes == codes[1], turned.codes == codes[0])
        open_cost = np.where(blocked, np.inf, turned.whole)  # infinite where a step is none
        n_moved = _move_until_none_gains(turned, open_cost, least, codes, left)
        if not n_moved:
            return
        left -= n_moved


def _move_until_none_gains(
    turned: _Turned, open_cost: NDArray[Any], least: NDArray[Any], codes: Codes, most: int
) -> int:
    """Moves of the column with most of them; a step found blocked gets an infinite cost."""
    change = np.empty_like(turned.slope)
    each = np.arange(len(change))
    for n_moved in range(most):
        np.abs(turned.slope, out=change)
        change *= -2
        change += open_cost
        rows = change.argmin(axis=1)
        gains = np.flatnonzero(change[each, rows] < least[each, rows])
        if not gains.size:
            return n_moved
        rows = rows[gains]
        _step(turned, gains, rows, open_cost, codes)
    return most


def _step(
    turned: _Turned, gains: NDArray[np.intp], rows: NDArray[np.intp], open_cost: NDArray[Any], codes: Codes
) -> None:
    """Move one code of each of these columns, as far as the range goes."""
    moves = np.where(turned.slope[gains, rows] > 0, 1, -1)
    moved = turned.codes[gains, rows] + moves
    blocked = (moved < codes[0]) | (moved > codes[1])
    if blocked.any():
        open_cost[gains[blocked], rows[blocked]] = np.inf
        gains, rows = gains[~blocked], rows[~blocked]
        moves, moved = moves[~blocked], moved[~blocked]
    turned.codes[gains, rows] = moved
    steps = turned.steps[gains]
    own = steps[:, 0] if steps.shape[1] == 1 else steps[np.arange(gains.size), rows]
    change = turned.gram[rows]
    change *= steps * (moves * own)[:, None]
    turned.slope[gains] -= change
