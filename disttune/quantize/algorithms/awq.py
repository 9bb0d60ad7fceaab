"""AWQ: scales inputs so that the weights of the largest ones lose less, then clips.

Rules:
1. s = a^alpha, a being the mean magnitude of each input and alpha 0, 1/20 .. 19/20; s is divided by
   sqrt(max s * min s). The layer rounds diag(s) W and its inputs are divided by s. The alpha with the least
   output error is taken; layers that share their inputs share it, by the sum of their errors.
2. Clipping: of each group, ranges of 1, 0.95 .. 0.55 of its own, both ends together; the one with the least
   error of the group alone, unless the column is then worse as a whole.
3. alpha = 0 and the whole range are plain rounding: no layer group ends worse than that.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from disttune.config.errors import TrialError
from disttune.config.schemes import Scheme
from disttune.quantize.algorithms.grid import Parameters, furthest_on_lowest, grid_from, has_signed_scales
from disttune.quantize.algorithms.layer import Floats, LayerProblem, LayerSolution
from disttune.quantize.algorithms.objective import Objective
from disttune.quantize.algorithms.registry import register_layer_algorithm
from disttune.quantize.algorithms.rounded import Rounded
from disttune.quantize.parameters import affine_arrays

_ALPHAS = np.arange(20) / 20
_SHARES = 1 - np.arange(1, 10) / 20
_LEAST_MAGNITUDE = 1e-4  # of the largest input's; what is never seen is not scaled away


@register_layer_algorithm("awq")
class Awq:
    """Source: Lin et al. 2023 (arXiv:2306.00978), 4.2 and appendix; losses from the Gram matrix are exact."""

    needs_inputs: ClassVar[bool] = True

    def solve(self, problem: LayerProblem) -> LayerSolution:
        return self.solve_together([problem])[0]

    def solve_together(self, problems: Sequence[LayerProblem]) -> list[LayerSolution]:
        """Layers that read the same tensor: one division of it serves all.

        Args:
            problems: at least one; of equal K and with equal inputs. Their schemes may differ.
        Raises:
            TrialError: nothing is known of the inputs; or they are to be scaled for several parts.
        """
        layers = [_Layer.of(problem) for problem in problems]
        scale = None
        if all(layer.scheme.option("scale_search") for layer in layers):
            scale = _best_scale(layers, _magnitudes(problems))
        return [layer.solution(scale) for layer in layers]


@dataclass(frozen=True, slots=True, eq=False)
class _Layer:
    """A layer's weight and costs; `scaled` gives those of the layer behind divided inputs."""

    weight: Floats
    objectives: list[Objective]
    scheme: Scheme

    @classmethod
    def of(cls, problem: LayerProblem) -> Self:
        if len(problem.weight) > 1 and problem.scheme.option("scale_search"):
            raise TrialError(f"op {problem.name}: awq scales the inputs of MatMul and Gemm alone")
        return cls(problem.weight, Objective.of_parts(problem), problem.scheme)

    def scaled(self, scale: Floats) -> Self:
        by_row = scale[:, None]
        objectives = [
            replace(o, weight=o.weight * by_row, gram=o.gram / by_row / scale) for o in self.objectives
        ]
        return replace(self, weight=self.weight * by_row, objectives=objectives)

    def rounded(self, share: float = 1.0) -> Rounded:
        """Plainly, ranges cut to a share."""
        return _rounded(self.weight, self.scheme, share)

    def loss(self) -> float:
        return float(self.rounded().losses(self.objectives).sum())

    def clipped(self) -> Rounded:
        """Rule 2."""
        whole = best = self.rounded()
        least = self._group_costs(best)
        for share in _SHARES:
            tried = self.rounded(share)
            cost = self._group_costs(tried)
            best, least = best.or_cheaper(tried, least, cost), np.minimum(least, cost)
        return whole.or_cheaper(best, whole.losses(self.objectives), best.losses(self.objectives))

    def solution(self, scale: Floats | None) -> LayerSolution:
        layer = self if scale is None else self.scaled(scale)
        found = layer.clipped() if self.scheme.option("clip_search") else layer.rounded()
        solution = found.solution(layer.objectives, found)
        n_rows = self.objectives[0].n_rows
        return replace(
            solution,
            input_scale=None if scale is None else scale.astype(np.float32),
            report={**solution.report, "loss_rtn": self.loss() / n_rows},
        )

    def _group_costs(self, rounded: Rounded) -> Floats:
        """Error of each group alone, shape (n_parts, n_groups, N)."""
        costs = []
        for objective, values in zip(self.objectives, rounded.values, strict=True):
            size = rounded.grid.group_size or len(values)
            error = objective.weight - values
            blocks = [slice(i, i + size) for i in range(0, len(values), size)]
            costs.append([np.einsum("kn,kn->n", error[b], objective.gram[b, b] @ error[b]) for b in blocks])
        return np.asarray(costs)


def _magnitudes(problems: Sequence[LayerProblem]) -> Floats:
    """Mean |x| of each input, shape (K,)."""
    inputs = problems[0].inputs
    assert inputs is not None  # else there were no objectives
    mean = inputs.absolute[0] / max(inputs.n_rows, 1)
    least = max(_LEAST_MAGNITUDE * float(mean.max(initial=0)), float(np.finfo(np.float32).tiny))
    return np.asarray(np.maximum(mean, least))


def _best_scale(layers: list[_Layer], magnitudes: Floats) -> Floats | None:
    """Rule 1; None where inputs are best left as they are. What is returned are float32 numbers."""
    searches = [_Search.of(layer) for layer in layers]
    best: Floats | None = None
    least = np.inf
    for alpha in _ALPHAS[1:]:
        scale = magnitudes**alpha
        scale = (scale / np.sqrt(scale.max() * scale.min())).astype(np.float32).astype(np.float64)
        loss = sum(search.loss(scale) for search in searches)
        if loss < least:
            best, least = scale, loss
    if best is None or sum(layer.scaled(best).loss() for layer in layers) >= sum(x.loss() for x in layers):
        return None
    return best


@dataclass(frozen=True, slots=True, eq=False)
class _Search:
    """Costs of one layer behind divided inputs, in float32: to tell alphas apart, in half the time.

    Args:
        weight: what is rounded, shape (K, N).
        target: what its values should be.
        gram: of the inputs as they are, over the mean of its diagonal.
        factor: that mean.
    """

    weight: Floats
    target: Floats
    gram: NDArray[np.float32]
    factor: float
    scheme: Scheme

    @classmethod
    def of(cls, layer: _Layer) -> Self:
        objective = layer.objectives[0]
        factor = float(np.diag(objective.gram).mean()) or 1.0
        gram = (objective.gram / factor).astype(np.float32)
        return cls(layer.weight[0], objective.weight, gram, factor, layer.scheme)

    def loss(self, scale: Floats) -> float:
        by_row = scale[:, None]
        values = _rounded((self.weight * by_row)[None], self.scheme, 1.0).values[0] / by_row
        error = (self.target - values).astype(np.float32)
        return self.factor * float(np.einsum("kn,kn->", error, self.gram @ error, dtype=np.float64))


def _rounded(weight: Floats, scheme: Scheme, share: float) -> Rounded:
    signed = has_signed_scales(scheme)
    plain = Rounded.plainly(weight, scheme, signed=signed)
    if share == 1.0:
        return plain
    codes = plain.grid.codes

    def parameters(rows: Floats) -> Parameters:
        if signed:
            return furthest_on_lowest(share * rows, codes)
        values = rows.astype(np.float32)
        low, high = (share * end.astype(np.float64) for end in (values.min(axis=1), values.max(axis=1)))
        scale, zero_point = affine_arrays(low, high, scheme.dtype, scheme.symmetric)
        return scale, zero_point.astype(np.int32)

    grid = grid_from(weight, scheme, codes, parameters)
    return Rounded(grid, grid.round(weight))
