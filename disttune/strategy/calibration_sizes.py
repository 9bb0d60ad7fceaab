"""Calibration sizes as a choice: the space of each, and stages named after it."""

from collections.abc import Generator, Iterator
from dataclasses import replace

from disttune.space.space import Space
from disttune.strategy.stage import Stage, StageResult
from disttune.strategy.tuning import Tuning

SAMPLES_RECIPE = "calibration_samples"  # of a candidate that is not calibrated with the first size


def spaces_by_size(tuning: Tuning, space: Space) -> Iterator[tuple[str, Space]]:
    """The space for each of the job's calibration sizes, with what to add to the names of stages."""
    yield "", space
    for size in tuning.calibration_samples[1:]:
        yield f", {size} samples", replace(space, recipes={**space.recipes, SAMPLES_RECIPE: size})


def renamed(stages: Generator[Stage, StageResult, None], suffix: str) -> Generator[Stage, StageResult, None]:
    """The same stages with something added to their names."""
    try:
        stage = next(stages)
        while True:
            result = yield replace(stage, name=f"{stage.name}{suffix}")
            stage = stages.send(result)
    except StopIteration:
        return
