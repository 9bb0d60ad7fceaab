"""What AdaRound and AdaQuant share: the scales to start from, and what follows once codes are learned.

Rules:
1. `scale = "minmax"` starts from the range of the weight, "seqmse" from the range that SeqMSE finds for plain
   rounding. "auto" gives each column (the tensor, with one scale) that of both from which coordinate descent
   loses less, up to 4 bits, and is "minmax" above. On 33 real layers AdaRound then ends 4 to 15 % lower than
   from either at 4 bits; at 8 bits SeqMSE's ranges clip what rounding makes up for, and gain nothing.
2. Learned codes go through coordinate descent (`flip`), then scales and codes take turns (`refine_scale`).
3. A column (the tensor, with one scale) that ends worse than plain rounding takes that.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from disttune.config.errors import TrialError
from disttune.config.weight_methods import SCALES
from disttune.quantize.algorithms.flip import descended
from disttune.quantize.algorithms.grid import CodeArray
from disttune.quantize.algorithms.layer import Floats, LayerProblem, LayerSolution
from disttune.quantize.algorithms.objective import Objective, mean_error
from disttune.quantize.algorithms.relaxation import Float32s, Relaxation
from disttune.quantize.algorithms.rounded import Rounded
from disttune.quantize.algorithms.scale_refinement import refined
from disttune.quantize.algorithms.seqmse import searched

N_MARKS = 10  # of the history, and how often AdaRound judges its codes on the way
_FEW_LEVELS = 16  # of 4 bits
_TURNS = 2  # of scales and codes; more bring less than 0.3 %
_CANDIDATES = 40


@dataclass(frozen=True, slots=True, eq=False)
class Learned:
    """What came of a block of columns.

    Args:
        codes: shape (n_parts, K, n_columns).
        least: loss of the best codes of each column up to each mark, in units of the relaxation, shape
            (N_MARKS, n_parts, 1, n_columns).
        n_iterations: after which nothing more could change.
    """

    codes: CodeArray
    least: Float32s
    n_iterations: int


class Best:
    """The best values of each column so far, and how little they lost at each mark.

    Args:
        values: to begin with, shape (n_parts, K, n_columns).
        losses: of them, shape (n_parts, 1, n_columns).
        iterations: how many there may be.
    """

    def __init__(self, values: NDArray[Any], losses: Float32s, iterations: int) -> None:
        self.values = values
        self._least = losses
        self._marks_at = marks_at(iterations)
        self._marks: list[Float32s] = []

    def is_judged(self, n_done: int) -> bool:
        """Whether the history has a mark after this many iterations."""
        return n_done in self._marks_at

    def offer(self, values: NDArray[Any], losses: Float32s) -> bool:
        """Keep what is better; whether any column is."""
        better = losses < self._least
        if not better.any():
            return False
        self.values = np.where(better, values, self.values)
        self._least = np.where(better, losses, self._least)
        return True

    def mark(self, n_done: int) -> None:
        """After each iteration (that is judged)."""
        while len(self._marks) < N_MARKS and self._marks_at[len(self._marks)] <= n_done:
            self._marks.append(self._least)

    def learned(self, codes: CodeArray, n_iterations: int) -> Learned:
        """What came of it in the end."""
        missing = [self._least] * (N_MARKS - len(self._marks))
        return Learned(codes, np.stack([*self._marks, *missing]), n_iterations)


def solve_by_learning(
    problem: LayerProblem, learn: Callable[[Relaxation], Learned], *, with_bias: bool = False
) -> LayerSolution:
    """A layer by an algorithm that learns the codes of a block of columns.

    Args:
        problem: the layer.
        learn: the algorithm.
        with_bias: whether a bias makes up for the mean error of the codes, which then costs nothing.
    """
    scheme, inputs = problem.scheme, problem.inputs
    objectives = Objective.of_parts(problem)
    if with_bias and inputs is not None:
        objectives = [o.centered(total) for o, total in zip(objectives, inputs.total, strict=True)]
    plain = Rounded.plainly(problem.weight, scheme)
    start = _start(problem, plain, objectives)
    found, marks, n_iterations = _learned(Relaxation.of(start, objectives), start, learn)
    found = _polished(
        found, objectives, flip=bool(scheme.option("flip")), refine=bool(scheme.option("refine_scale"))
    )
    found = plain.or_cheaper(found, plain.losses(objectives), found.losses(objectives))
    solution = found.solution(objectives, plain)
    report = {**solution.report, "iterations": float(n_iterations)}
    solution = replace(solution, report=report, history=_history(scheme.option("iterations"), report, marks))
    if not with_bias or inputs is None:
        return solution
    mean = inputs.total / max(inputs.n_rows, 1)
    return replace(solution, shift=mean_error(problem.weight, found.values, mean))


def marks_at(iterations: int) -> list[int]:
    """Numbers of iterations at which the history says what the best codes lose."""
    return [iterations * (i + 1) // N_MARKS for i in range(N_MARKS)]


def _start(problem: LayerProblem, plain: Rounded, objectives: list[Objective]) -> Rounded:
    """Rule 1."""
    option = problem.scheme.option("scale")
    if option not in SCALES:
        raise TrialError(f'op {problem.name}: option scale = "{option}": valid are {", ".join(SCALES)}')
    lowest, highest = plain.grid.codes
    if option == "minmax" or (option == "auto" and highest - lowest >= _FEW_LEVELS):
        return plain
    narrowed = searched(problem, plain, objectives, _CANDIDATES, ends_apart=False)
    if option == "seqmse":
        return narrowed
    costs = [descended(each, objectives).losses(objectives) for each in (plain, narrowed)]
    return plain.or_cheaper(narrowed, *costs)


def _learned(
    relaxation: Relaxation, start: Rounded, learn: Callable[[Relaxation], Learned]
) -> tuple[Rounded, Floats, int]:
    """Codes of all columns, the layer's loss at each mark, and the iterations of the block with the most."""
    codes, marks, n_iterations = np.empty_like(start.codes), np.zeros(N_MARKS), 0
    for columns, block in relaxation.blocks():
        learned = learn(block)
        codes[..., columns] = learned.codes
        marks += (learned.least * block.units).sum(axis=(1, 2, 3))
        n_iterations = max(n_iterations, learned.n_iterations)
    return replace(start, codes=codes), marks, n_iterations


def _polished(found: Rounded, objectives: list[Objective], *, flip: bool, refine: bool) -> Rounded:
    if flip:
        found = descended(found, objectives)
    for _ in range(_TURNS if refine else 0):
        found = refined(found, objectives)
        if flip:
            found = descended(found, objectives)
    return found


def _history(iterations: object, report: dict[str, float], marks: Floats) -> tuple[tuple[int, float], ...]:
    """From plain rounding over the marks to what the solution has."""
    at = marks_at(int(str(iterations)))
    losses = np.minimum.accumulate([report["loss_rtn"], *marks, report["loss"]])
    losses = np.maximum(losses, report["loss"])
    return tuple(zip([0, *at, at[-1]], map(float, losses), strict=True))
