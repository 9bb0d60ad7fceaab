"""The engines of a trial process: one for each number of calibration samples that candidates ask for."""

from dataclasses import replace

from disttune.quantize.engine import Engine
from disttune.runtime.job_data import JobData
from disttune.space.candidate import Candidate
from disttune.strategy.calibration_sizes import SAMPLES_RECIPE


class Engines:
    """The engine of the job's first size is made at once, others when a candidate asks for one.

    Args:
        data: of the job.
    Raises:
        InputError: the engine cannot do what the job asks for.
    """

    def __init__(self, data: JobData):
        self._data = data
        self._first_size = data.job.calibration.samples[0]
        self._engines: dict[int, Engine] = {}
        self.first = self._engine(self._first_size)

    def of(self, candidate: Candidate) -> tuple[Engine, Candidate]:
        """The engine that builds a candidate, and the candidate without the size it is calibrated with."""
        recipes = dict(candidate.recipes)
        size = recipes.pop(SAMPLES_RECIPE, self._first_size)
        assert isinstance(size, int)
        return self._engine(size), replace(candidate, recipes=tuple(sorted(recipes.items())))

    def _engine(self, size: int) -> Engine:
        if size not in self._engines:
            self._engines[size] = self._data.engine(size)
        return self._engines[size]
