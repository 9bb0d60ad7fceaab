"""CMA-ES over ordered codes of the options of ops or op types, in batches.

Options count by their position in the op's list, so that an evolution path means something; on plain names
it would be random search. A batch is a generation, so that nothing measured is wasted. With margin, which
keeps whole numbers from freezing. Points that are asked for again count again, without a trial.

Source: Hansen and Ostermeier 2001; Hamano et al. 2022 (arXiv:2205.13482) for the margin.
"""

from collections import defaultdict, deque
from collections.abc import Generator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from disttune.space.dimensions import Dimensions, Point
from disttune.strategy.batches import sample
from disttune.strategy.extras import require
from disttune.strategy.grid import check_level, sampler_grid
from disttune.strategy.loss import loss
from disttune.strategy.registry import register_strategy
from disttune.strategy.stage import Stage, StageResult
from disttune.strategy.trial import Trial
from disttune.strategy.tuning import Tuning

SIGMA = 0.3  # first step, with every dimension from 0 to 1
MIN_DIMENSIONS = 2  # of the algorithm; what a small grid lacks is made up by dimensions without meaning


@register_strategy("cmaes")
class Cmaes:
    """See the head of this file.

    Args:
        level: "op" or "op_type" dimensions; by default by op unless more than 30 have options.
    """

    def __init__(self, level: str | None = None):
        check_level(level, "cmaes")
        require("cmaes", "cmaes", "samplers")
        self.level = level

    def stages(self, tuning: Tuning) -> Generator[Stage, StageResult, None]:
        grid = sampler_grid(tuning.space, self.level)
        yield from sample(tuning, grid, CmaSampler(tuning, grid), "cmaes")


class CmaSampler:
    """See `batches.Sampler`.

    Args:
        tuning: seed, size of a batch, and what the loss is made of.
        grid: of the points.
    """

    def __init__(self, tuning: Tuning, grid: Dimensions):
        from cmaes import CMAwM

        self._tuning = tuning
        self._grid = grid
        self._steps = np.array([n - 1 for n in grid.sizes], np.float64)
        n = max(MIN_DIMENSIONS, len(grid.sizes))
        usual_population = 4 + int(3 * np.log(n))
        self._optimizer: Any = CMAwM(
            mean=np.full(n, 0.5),
            sigma=SIGMA,
            bounds=np.tile([0.0, 1.0], (n, 1)),
            steps=np.array([*(1 / self._steps), *[0.0] * (n - len(grid.sizes))]),
            seed=tuning.seed,
            population_size=max(tuning.batch_size, usual_population),
        )
        self._open: dict[Point, deque[NDArray[np.float64]]] = defaultdict(deque)
        self._generation: list[tuple[NDArray[np.float64], float]] = []

    def ask(self) -> Point:
        found, told = self._optimizer.ask()
        point = tuple(int(i) for i in np.rint(found[: len(self._steps)] * self._steps))
        self._open[point].append(told)
        return point

    def tell(self, point: Point, trial: Trial) -> None:
        place = self._open[point].popleft()
        if trial.candidate != self._grid.candidate(point):
            measured = self._grid.find(trial.candidate)
            if measured is not None:
                place = place.copy()
                place[: len(self._steps)] = np.array(measured) / self._steps
        value = loss(self._tuning, trial)
        self._generation.append((place, np.inf if value is None else value))
        if len(self._generation) == self._optimizer.population_size:
            self._optimizer.tell(self._generation)
            self._generation = []
