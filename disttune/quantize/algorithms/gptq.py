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

from disttune.config.schemes import Scheme
from disttune.quantize.algorithms.flip import descended
from disttune.quantize.algorithms.grid import CodeArray, Grid, grid_of, has_signed_scales
from disttune.quantize.algorithms.layer import Floats, LayerProblem, LayerSolution
from disttune.quantize.algorithms.objective import Objective
from disttune.quantize.algorithms.registry import register_layer_algorithm
from disttune.quantize.algorithms.rounded import Rounded

_MORE_DAMPING = (1, 10, 100, 1000)
_SMALL = 64  # triangular matrices up to this size are inverted whole


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
        found = found.or_cheaper(plain, found.losses(objectives), plain.losses(objectives))
        if scheme.option("flip"):
            found = descended(found, objectives)
        return found.solution(objectives, plain)


@dataclass(slots=True, eq=False)
class _Rows:
    """One part on its way: rows in the order in which they are rounded.

    Args:
        weight: what is left to be rounded, changed as errors are made up for; shape (K, N).
        factor: U with H^-1 = U^T U, upper triangular.
        codes: found so far.
    """

    weight: Floats
    factor: Floats
    codes: CodeArray

    def round(self, start: int, grid: Grid, size: int, end: int) -> None:
        """Round rows one by one; those behind them up to `end` make up for it at once.

        Args:
            start: the first row.
            grid: of these rows alone, shape (1, 1 or size, N).
            size: number of rows.
            end: of the block; `later` does the rest.
        """
        steps = np.broadcast_to(grid.scale[0], (size, self.weight.shape[1]))
        zeros = np.broadcast_to(grid.zero_point[0], steps.shape)
        for k in range(start, start + size):
            row = replace(grid, scale=steps[None, [k - start]], zero_point=zeros[None, [k - start]])
            self.codes[k] = row.round(self.weight[None, [k]])[0, 0]
            value = row.values(self.codes[None, [k]])[0, 0]
            error = (self.weight[k] - value) / self.factor[k, k]
            self.weight[k + 1 : end] -= np.outer(self.factor[k, k + 1 : end], error)
            self.weight[k] = error  # no longer needed as it was

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
    factor = _inverse_factor(objective.gram[np.ix_(order, order)], float(scheme.option("percdamp")))
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


def _inverse_factor(gram: Floats, percdamp: float) -> Floats | None:
    """U with (gram + damping)^-1 = U^T U, upper triangular; None where there is none."""
    diagonal = np.diag(gram)
    alive = diagonal > 0
    mean = float(diagonal[alive].mean()) if alive.any() else 1.0
    for more in _MORE_DAMPING:
        damped = gram.copy()
        damped[np.diag_indices_from(damped)] += np.where(alive, percdamp * more * mean, mean)
        try:
            lower = np.linalg.cholesky(damped[::-1, ::-1]).astype(np.float64)
        except np.linalg.LinAlgError:
            continue
        factor = _inverse_of_lower(lower)[::-1, ::-1]
        if np.isfinite(factor).all():
            return factor
    return None


def _inverse_of_lower(lower: Floats) -> Floats:
    """Inverse of a lower triangular matrix, by halves."""
    n = len(lower)
    if n <= _SMALL:
        return np.asarray(np.tril(np.linalg.inv(lower)))
    half = n // 2
    first, last = _inverse_of_lower(lower[:half, :half]), _inverse_of_lower(lower[half:, half:])
    inverse = np.zeros_like(lower)
    inverse[:half, :half], inverse[half:, half:] = first, last
    inverse[half:, :half] = -last @ (lower[half:, :half] @ first)
    return inverse
