"""The loop of samplers that are asked for points and told results, a fixed number at a time.

A batch is as large whatever the number of ranks, so the result does not depend on it. The search ends
when the grid is used up, or after 20 batches without a new point.
"""

from collections.abc import Generator
from typing import Protocol

from disttune.space.dimensions import Dimensions, Point
from disttune.strategy.stage import Stage, StageResult
from disttune.strategy.trial import Trial
from disttune.strategy.tuning import Tuning

MAX_EMPTY_BATCHES = 20


class Sampler(Protocol):
    """Asked and told in the same order in every run of a job."""

    def ask(self) -> Point:
        """A point to measure; it may be one that was asked for before."""

    def tell(self, point: Point, trial: Trial) -> None:
        """What became of the first of the points like this that were asked for and not yet told.

        The trial may be of another point: a resumed job goes on from what was measured.
        """


def sample(
    tuning: Tuning, grid: Dimensions, sampler: Sampler, name: str
) -> Generator[Stage, StageResult, None]:
    """Ask for batches until the end.

    Args:
        tuning: has the size of a batch; is told why the search ends.
        grid: of the points.
        sampler: proposes.
        name: of the strategy.
    """
    known: dict[Point, Trial] = {}
    n_batches = n_empty = 0
    while len(known) < grid.size and n_empty < MAX_EMPTY_BATCHES:
        asked = [sampler.ask() for _ in range(tuning.batch_size)]
        new = list(dict.fromkeys(point for point in asked if point not in known))
        n_empty = 0 if new else n_empty + 1
        if new:
            n_batches += 1
            result = yield Stage(f"{name}, batch {n_batches}", [grid.candidate(point) for point in new])
            known |= dict(zip(new, result.trials, strict=False))
        for point in asked:
            if point in known:
                sampler.tell(point, known[point])
    if len(known) == grid.size:
        tuning.note(f"{name}: all {grid.size} points of the grid are measured")
    else:
        tuning.note(f"{name}: the end, {MAX_EMPTY_BATCHES} batches in a row had no new point")
