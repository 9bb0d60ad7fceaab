"""A layer's codes on their grid, and the choice between two of them, so that none is worse than rounding."""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from disttune.config.schemes import Scheme
from disttune.quantize.algorithms.grid import CodeArray, Grid, grid_of
from disttune.quantize.algorithms.layer import Floats, LayerProblem, LayerSolution
from disttune.quantize.algorithms.objective import Objective


@dataclass(frozen=True, slots=True, eq=False)
class Rounded:
    """Codes of all parts, shape (n_parts, K, N), and their grid."""

    grid: Grid
    codes: CodeArray

    @classmethod
    def plainly(
        cls, weight: Floats, scheme: Scheme, threshold: str = "minmax", *, signed: bool = False
    ) -> Self:
        """Plain rounding of a weight, shape (n_parts, K, N); see `grid_of`."""
        grid = grid_of(weight, scheme, threshold, signed=signed)
        return cls(grid, grid.round(weight))

    @property
    def values(self) -> Floats:
        return self.grid.values(self.codes)

    def losses(self, objectives: list[Objective]) -> Floats:
        """Output error of each part and column, shape (n_parts, 1, N)."""
        pairs = zip(objectives, self.values, strict=True)
        return np.stack([objective.losses(values)[None] for objective, values in pairs])

    def or_cheaper(self, other: Self, own_cost: Floats, other_cost: Floats) -> Self:
        """Of every column (or group of one) the cheaper; this one where both cost the same.

        Args:
            other: of the same weight and scheme.
            own_cost, other_cost: shape (n_parts, 1 or n_groups, N).
        """
        if self.grid.scale.size == 1:
            return other if other_cost.sum() < own_cost.sum() else self
        cheaper = np.broadcast_to(other_cost < own_cost, self.grid.scale.shape)
        grid = replace(
            self.grid,
            scale=np.where(cheaper, other.grid.scale, self.grid.scale),
            zero_point=np.where(cheaper, other.grid.zero_point, self.grid.zero_point),
        )
        rows = self.grid.for_rows(cheaper, self.codes.shape[1])
        return replace(self, grid=grid, codes=np.where(rows, other.codes, self.codes))

    def with_less_error(self, other: Self, weight: Floats, power: float = 2.0) -> Self:
        """`or_cheaper` by the sum of |weight - value|^power over each column, or group of one."""
        costs = [self.grid.sums(np.abs(weight - rounded.values) ** power) for rounded in (self, other)]
        return self.or_cheaper(other, *costs)

    def solution(
        self, objectives: list[Objective], plain: Self, costs: tuple[Floats, Floats] | None = None
    ) -> LayerSolution:
        """With the losses of these codes and of plain rounding in its report.

        Args:
            objectives: of all parts.
            plain: plain rounding.
            costs: where this came of `or_cheaper`: the losses that it was told of; the last of `plain`.
        """
        n_rows = objectives[0].n_rows
        if costs is None:
            loss, loss_rtn = (float(rounded.losses(objectives).sum()) for rounded in (self, plain))
        else:
            loss_rtn = float(costs[1].sum())
            loss = min(float(costs[0].sum()), loss_rtn)
            if self.grid.scale.size > 1:
                loss = float(np.minimum(*costs).sum())
        return self.grid.solution(self.codes, loss=loss / n_rows, loss_rtn=loss_rtn / n_rows)

    def solution_without_data(self, problem: LayerProblem, plain: Self) -> LayerSolution:
        """With the losses in its report where something is known of the inputs after all."""
        if problem.inputs is None:
            return self.grid.solution(self.codes)
        return self.solution(Objective.of_parts(problem), plain)
