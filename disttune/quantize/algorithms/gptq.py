"""GPTQ: rounds row by row; the rows still to come make up for the error of each.

Rules:
1. H is damped by `percdamp` of its mean diagonal, ten times more up to three times where it still has no
   Cholesky factor; where it then has none, plain rounding is kept.
2. Scales of a group come from its rows as they are when its turn comes, all earlier errors made up for.
   With `act_order` rows go by falling H_kk, and groups, which are runs of the original order, take their
   scales from the original weight ("static groups"): codes then need no index of groups.
3. A column that ends worse than by plain rounding takes that; inputs that were never but zero keep it as
   well, since nothing is known of them.
4. With `flip`, coordinate descent follows.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from disttune.config.schemes import Scheme
from disttune.quantize.algorithms.flip import descended
from disttune.quantize.algorithms.grid import CodeArray, Grid, grid_of, has_signed_scales
from disttune.quantize.algorithms.inverse_factor import inverse_factor
from disttune.quantize.algorithms.layer import Floats, LayerProblem, LayerSolution
from disttune.quantize.algorithms.objective import Objective
from disttune.quantize.algorithms.registry import register_layer_algorithm
from disttune.quantize.algorithms.rounded import Rounded
from disttune.quantize.parameters import Codes

_AT_ONCE = 32  # rows whose errors those behind them make up for together


@register_layer_algorithm("gptq")
class Gptq:
    """Source: Frantar et al. 2022 (arXiv:2210.17323), algorithm 1; static groups as in its later code."""

    needs_inputs: ClassVar[bool] = True

    def solve(self, problem: LayerProblem) -> LayerSolution:
        scheme = problem.scheme
        plain = Rounded.plainly(problem.weight, scheme, signed=has_signed_scales(scheme))
        objectives = Objective.of_parts(problem)
        threshold = "mse" if scheme.option("mse") else "minmax"
        start = plain if threshold == "minmax" else Rounded.plainly(problem.weight, scheme, threshold)
        parts = [_solve_part(o, start.grid.part(i), scheme, threshold) for i, o in enumerate(objectives)]
        if any(part is None for part in parts):
            return plain.solution(objectives, plain)
        grids, codes = zip(*(part for part in parts if part), strict=True)
        found = Rounded(_joined(grids, scheme), np.stack(codes))
        costs = found.losses(objectives), plain.losses(objectives)
        found = found.or_cheaper(plain, *costs)
        if scheme.option("flip"):
            return descended(found, objectives).solution(objectives, plain)
        return found.solution(objectives, plain, costs)


@dataclass(slots=True, eq=False)
class _Rows:
    """One part on its way: rows in the order in which they are rounded.

    Args:
        weight: what is left to be rounded; of rows that are, their error over U_kk; shape (K, N).
        factor: U with H^-1 = U^T U, upper triangular.
        codes: found so far.
    """

    weight: Floats
    factor: Floats
    codes: CodeArray

    def round(self, start: int, grid: Grid, size: int, end: int) -> None:
        """Round rows one by one; those behind them up to `end` have then made up for it.

        Args:
            start: the first row.
            grid: of these rows alone, shape (1, 1 or size, N).
            size: number of rows.
            end: of the block; `later` does the rest.
        """
        steps = np.broadcast_to(grid.scale[0], (size, self.weight.shape[1]))
        zeros = np.broadcast_to(grid.zero_point[0], steps.shape)
        for first in range(start, start + size, _AT_ONCE):
            last = min(first + _AT_ONCE, start + size)
            rows = slice(first - start, last - start)
            self._round_few(first, steps[rows], zeros[rows], grid.codes)
            self.weight[last:end] -= self.factor[first:last, last:end].T @ self.weight[first:last]

    def _round_few(
        self, start: int, steps: NDArray[np.float32], zeros: NDArray[np.int32], codes: Codes
    ) -> None:
        """Round rows one by one, each after it has made up for those before it here; as `Grid.round`."""
        for i, (step, zero) in enumerate(zip(steps, zeros, strict=True)):
            k = start + i
            row = self.weight[k]
            if i:
                row -= self.factor[start:k, k] @ self.weight[start:k]
            with np.errstate(over="ignore"):
                code = np.rint(row.astype(np.float32) / step) + zero
            self.codes[k] = np.clip(code, *codes)
            row -= (self.codes[k] - zero) * step.astype(np.float64)
            row /= self.factor[k, k]

    def later(self, start: int, end: int) -> None:
        """Let the rows from `end` on make up for the block's errors."""
        self.weight[end:] -= self.factor[start:end, end:].T @ self.weight[start:end]


def _solve_part(
    objective: Objective, grid: Grid, scheme: Scheme, threshold: str
) -> tuple[Grid, CodeArray] | None:
    """Grid and codes of one part; None where rule 1 ends in plain rounding."""
    n_rows, n_columns = objective.weight.shape
    by_activation = scheme.option("act_order") is True
    diagonal = np.diag(objective.gram)
    order = np.argsort(-diagonal, kind="stable") if by_activation else np.arange(n_rows)
    factor = inverse_factor(
        objective.gram, float(scheme.option("percdamp")), order if by_activation else None
    )
    if factor is None:
        return None
    rows = _Rows(objective.weight[order], factor, np.zeros((n_rows, n_columns), np.int32))
    block = max(int(scheme.option("block_size")), 1)
    if scheme.group_size and not by_activation:
        grid = _by_group(rows, grid, scheme, threshold, block)
    else:
        fixed = replace(
            grid,
            scale=np.broadcast_to(grid.for_rows(grid.scale, n_rows), (1, n_rows, n_columns))[:, order],
            zero_point=np.broadcast_to(grid.for_rows(grid.zero_point, n_rows), (1, n_rows, n_columns))[
                :, order
            ],
            group_size=None,
        )
        for start in range(0, n_rows, block):
            end = min(start + block, n_rows)
            part = slice(start, end)
            own = replace(fixed, scale=fixed.scale[:, part], zero_point=fixed.zero_point[:, part])
            rows.round(start, own, end - start, end)
            rows.later(start, end)
    codes = np.empty_like(rows.codes)
    codes[order] = rows.codes
    return grid, codes


def _by_group(rows: _Rows, grid: Grid, scheme: Scheme, threshold: str, block: int) -> Grid:
    """Round all rows, rule 2; returns the grid that came of it. Blocks are whole groups."""
    assert scheme.group_size
    size, n_rows = scheme.group_size, len(rows.codes)
    own = replace(scheme, granularity="per_channel", group_size=None)
    signed = has_signed_scales(scheme)
    found = []
    block = size * max(block // size, 1)
    for start in range(0, n_rows, block):
        end = min(start + block, n_rows)
        for first in range(start, end, size):
            n = min(size, end - first)
            found.append(grid_of(rows.weight[None, first : first + n], own, threshold, signed=signed))
            rows.round(first, found[-1], n, end)
        rows.later(start, end)
    return replace(
        grid,
        scale=np.concatenate([g.scale for g in found], axis=1),
        zero_point=np.concatenate([g.zero_point for g in found], axis=1),
    )


def _joined(grids: tuple[Grid, ...], scheme: Scheme) -> Grid:
    """Grids of the parts as that of the layer."""
    if scheme.granularity == "per_tensor":
        return grids[0]
    return replace(
        grids[0],
        scale=np.concatenate([grid.scale for grid in grids]),
        zero_point=np.concatenate([grid.zero_point for grid in grids]),
    )
