"""SeqMSE: searches, for each channel or group, the range whose rounding costs the layer's output least.

Rules:
1. Candidates are the range of the weight times 0.2 to 1; a symmetric type with one code more below zero than
   above has one more, wide enough that nothing clips. The range itself is the first, so no column ends
   worse, and ties go to it.
2. Asymmetric: both ends together, then each end alone, in steps twice as large, with the other as found.
3. Groups go one after the other, each given the errors of the others, over all of them twice: AIMET scores
   each by its own share of the output alone.
4. One scale for the tensor is scored by the sum over all columns.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from disttune.quantize.algorithms.grid import Grid
from disttune.quantize.algorithms.layer import Floats, LayerProblem, LayerSolution
from disttune.quantize.algorithms.objective import Objective
from disttune.quantize.algorithms.registry import register_layer_algorithm
from disttune.quantize.algorithms.relaxation import Float32s, column_losses, normalized_gram
from disttune.quantize.algorithms.rounded import Rounded
from disttune.quantize.parameters import affine_arrays

_LEAST_RATIO = 0.2
_SWEEPS = 2  # over groups
Ratios = NDArray[np.float64]


@register_layer_algorithm("seqmse")
class SeqMse:
    """Sequential MSE. Source: AIMET, `apply_seq_mse`; here on the Gram matrix, rules 2 and 3 are ours."""

    needs_inputs: ClassVar[bool] = True

    def solve(self, problem: LayerProblem) -> LayerSolution:
        objectives = Objective.of_parts(problem)
        plain = Rounded.plainly(problem.weight, problem.scheme)
        found = searched(problem, plain, objectives, int(problem.scheme.option("candidates")))
        return found.solution(objectives, plain)


def searched(
    problem: LayerProblem,
    plain: Rounded,
    objectives: list[Objective],
    n_candidates: int,
    *,
    ends_apart: bool = True,
) -> Rounded:
    """The best candidate of every scale, its codes being plain rounding.

    Args:
        problem: the layer.
        plain: it rounded plainly.
        objectives: of its parts.
        n_candidates: ratios between 0.2 and 1.
        ends_apart: whether an asymmetric range's ends also move alone.
    """
    search = _Search.of(problem, plain, objectives, n_candidates)
    search.ends_apart = ends_apart and not problem.scheme.symmetric
    n_groups = plain.grid.scale.shape[1]
    for _ in range(1 if n_groups == 1 else _SWEEPS):
        for group in range(n_groups):
            search.improve(group)
    found = search.found
    return plain.or_cheaper(found, plain.losses(objectives), found.losses(objectives))


@dataclass(slots=True, eq=False)
class _Search:
    """A layer on its way; errors are divided by `size`, the mean scale of a column, (n_parts, 1, N)."""

    problem: LayerProblem
    weight: Floats
    gram: Float32s
    size: Floats
    plain: Grid
    found: Rounded
    ratios: Ratios
    ends_apart: bool = False

    @classmethod
    def of(
        cls, problem: LayerProblem, plain: Rounded, objectives: list[Objective], n_candidates: int
    ) -> "_Search":
        return cls(
            problem=problem,
            weight=np.stack([objective.weight for objective in objectives]),
            gram=normalized_gram(objectives)[0],
            size=plain.grid.steps(plain.codes.shape[1]).mean(axis=1, keepdims=True),
            plain=plain.grid,
            found=plain,
            ratios=np.linspace(1.0, _LEAST_RATIO, n_candidates),
        )

    def improve(self, group: int) -> None:
        """Give one group its best scale and zero point while the others stay."""
        rows = self._rows(group)
        error = self._relative(self.weight - self.found.values)
        outside = np.matmul(self.gram[:, rows], error)
        outside -= np.matmul(self.gram[:, rows, rows], error[:, rows])
        best = Rounded(_group(self.found.grid, group), self.found.codes[:, rows])
        cost = self._cost(best, rows, outside)
        middle = _group(self.plain, group)
        for ends in self._steps():
            for ratios in ends:
                candidate = self._candidate(middle, ratios, rows)
                its_cost = self._cost(candidate, rows, outside)
                best, cost = best.or_cheaper(candidate, cost, its_cost), np.minimum(cost, its_cost)
            middle = best.grid
        self._put(group, rows, best)

    def _rows(self, group: int) -> slice:
        size = self.plain.group_size or self.weight.shape[1]
        return slice(group * size, (group + 1) * size)

    def _relative(self, error: Floats) -> Float32s:
        return np.asarray(error / self.size, np.float32)

    def _cost(self, rounded: Rounded, rows: slice, outside: Float32s) -> Floats:
        """What the layer's error would be but for a constant; of shape (n_parts, 1, N), or one number."""
        error = self._relative(self.weight[:, rows] - rounded.values)
        pull = np.matmul(self.gram[:, rows, rows], error)
        pull += 2 * outside
        costs = column_losses(error, pull).astype(np.float64)
        return costs.sum(keepdims=True) if self.plain.scale.size == 1 else costs

    def _steps(self) -> Iterator[Iterator[tuple[float, float]]]:
        """Ratios of the lower and the upper end: rule 2."""
        yield ((float(r), float(r)) for r in self._both())
        if self.ends_apart:
            yield ((float(r), 1.0) for r in self.ratios[2::2])
            yield ((1.0, float(r)) for r in self.ratios[2::2])

    def _both(self) -> Ratios:
        lowest, highest = self.plain.codes
        zero = float(np.rint((lowest + highest) / 2))
        if not self.problem.scheme.symmetric or lowest + highest == 2 * zero:
            return self.ratios
        return np.append(self.ratios, (highest - lowest) / 2 / min(zero - lowest, highest - zero))

    def _candidate(self, middle: Grid, ratios: tuple[float, float], rows: slice) -> Rounded:
        if self.problem.scheme.symmetric:
            scale = np.maximum(middle.scale * np.float32(ratios[1]), np.finfo(np.float32).tiny)
            grid = replace(middle, scale=scale)
        else:
            lowest, highest = middle.codes
            step, zero = middle.scale.astype(np.float64), middle.zero_point
            ends = (lowest - zero) * step * ratios[0], (highest - zero) * step * ratios[1]
            found = affine_arrays(*ends, self.problem.scheme.dtype, symmetric=False)
            grid = replace(middle, scale=found[0], zero_point=found[1].astype(np.int32))
        return Rounded(grid, grid.round(self.weight[:, rows]))

    def _put(self, group: int, rows: slice, best: Rounded) -> None:
        scale, zero_point = self.found.grid.scale.copy(), self.found.grid.zero_point.copy()
        scale[:, group : group + 1], zero_point[:, group : group + 1] = best.grid.scale, best.grid.zero_point
        codes = self.found.codes.copy()
        codes[:, rows] = best.codes
        self.found = Rounded(replace(self.found.grid, scale=scale, zero_point=zero_point), codes)


def _group(grid: Grid, group: int) -> Grid:
    one = slice(group, group + 1)
    return replace(grid, scale=grid.scale[:, one], zero_point=grid.zero_point[:, one], group_size=None)
