"""Bayesian optimisation: a Gaussian process over the options of ops or op types, expected improvement.

1. random points, twice as many as dimensions, at most 10; 2. batches: the process is fitted to all that is
known, then each point of the batch is the one with the greatest expected improvement, and counts from
then on as if it had the best metric so far (constant liar). Improvement is sought over all points that
are not known yet when the grid has less than 10,000, else over 10,000 seeded ones and the neighbours of
the best. No point comes twice; the search ends when the grid is used up.

Points are coded so that two different options of a dimension are all equally far apart.
Source: Jones, Schonlau and Welch 1998 (expected improvement); Ginsbourger et al. 2010 (constant liar).
INC 2.6 takes an upper confidence bound over continuous codes, always maximises and repeats itself.
"""

import random
import warnings
from collections.abc import Generator, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from disttune.space.dimensions import Dimensions, Point
from disttune.strategy.extras import require
from disttune.strategy.gaussian_process import expected_improvement, fitted, with_points
from disttune.strategy.grid import check_level, sampler_grid
from disttune.strategy.random import shuffled
from disttune.strategy.registry import register_strategy
from disttune.strategy.stage import Stage, StageResult
from disttune.strategy.trial import Trial
from disttune.strategy.tuning import Tuning

if TYPE_CHECKING:
    import numpy as np

MAX_INITIAL = 10
MAX_POINTS = 10_000


@register_strategy("bayesian")
class Bayesian:
    """See the head of this file.

    Args:
        level: "op" or "op_type" dimensions; by default by op unless more than 30 have options.
    """

    def __init__(self, level: str | None = None):
        check_level(level, "bayesian")
        require("bayesian", "sklearn", "bayesian")
        self.level = level

    def stages(self, tuning: Tuning) -> Generator[Stage, StageResult, None]:
        grid = sampler_grid(tuning.space, self.level)
        n_initial = min(grid.size, MAX_INITIAL, max(1, 2 * len(grid.names)))
        points = [grid.point(shuffled(i, grid.size, tuning.seed)) for i in range(n_initial)]
        known: dict[Point, Trial] = {}
        n_batches = 0
        while points:
            name = f"bayesian, batch {n_batches}" if n_batches else "bayesian, random points"
            result = yield Stage(name, [grid.candidate(point) for point in points])
            known |= _as_measured(grid, points, result.trials)
            n_batches += 1
            rng = random.Random(f"bayesian {tuning.seed} {n_batches}")
            points = next_points(grid, _scores(tuning, known), tuning.batch_size, rng)
        tuning.note(f"bayesian: all {grid.size} points of the grid are measured")


def _as_measured(grid: Dimensions, points: Iterable[Point], trials: Iterable[Trial]) -> dict[Point, Trial]:
    """Trials by point. A resumed job may have measured another one; the point proposed counts as known."""
    measured: dict[Point, Trial] = {}
    for point, trial in zip(points, trials, strict=False):
        measured[point] = trial
        if trial.candidate != grid.candidate(point) and (actual := grid.find(trial.candidate)) is not None:
            measured[actual] = trial
    return measured


def _scores(tuning: Tuning, known: Mapping[Point, Trial]) -> dict[Point, float]:
    """Metrics, higher is better; a trial without one counts as the worst of the others."""
    sign = 1.0 if tuning.goal.higher_is_better else -1.0
    metrics = {point: sign * t.metric for point, t in known.items() if t.metric is not None}
    worst = min(metrics.values(), default=0.0)
    return {point: metrics.get(point, worst) for point in known}


def next_points(
    grid: Dimensions, scores: Mapping[Point, float], n_points: int, rng: random.Random
) -> list[Point]:
    """The points of the next batch, none of them known; fewer when the grid is nearly used up.

    Args:
        grid: of the points.
        scores: of all known points, higher is better.
        n_points: at most.
        rng: for the sample of a large grid.
    """
    import numpy as np
    from threadpoolctl import threadpool_limits

    best = max(scores, key=lambda point: scores[point])
    pool = _pool(grid, scores, best, rng)
    if not pool:
        return []
    x = [*scores]
    y = [*scores.values()]
    chosen: list[int] = []
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the fit's convergence
        process = fitted(_coded(grid, x), y)
        coded = _coded(grid, pool)
        for _ in range(min(n_points, len(pool))):
            improvement = expected_improvement(process, coded, max(y))
            improvement[chosen] = -np.inf
            chosen.append(int(np.argmax(improvement)))
            x.append(pool[chosen[-1]])
            y.append(scores[best])
            process = with_points(process, _coded(grid, x), y)
    return [pool[i] for i in chosen]


def _pool(grid: Dimensions, known: Mapping[Point, float], best: Point, rng: random.Random) -> list[Point]:
    """Points that may come next, each once, in a fixed order."""
    if grid.size < MAX_POINTS:
        indices: Iterable[int] = range(grid.size)
        return [point for index in indices if (point := grid.point(index)) not in known]
    drawn = [grid.point(rng.randrange(grid.size)) for _ in range(MAX_POINTS)]
    return [point for point in dict.fromkeys((*grid.neighbours(best), *drawn)) if point not in known]


def _coded(grid: Dimensions, points: Sequence[Point]) -> "np.ndarray":
    """One column for each option of each dimension, shape (n_points, n_columns)."""
    import numpy as np

    starts = np.cumsum([0, *grid.sizes])
    coded = np.zeros((len(points), int(starts[-1])))
    if grid.sizes:
        columns = np.asarray(points, dtype=int) + starts[:-1]
        np.put_along_axis(coded, columns, np.sqrt(0.5), axis=1)
    return coded
