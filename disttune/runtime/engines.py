"""The engines of a trial process: one for each number of calibration samples that candidates ask for."""

from dataclasses import replace

from disttune.quantize.engine import Engine
from disttune.quantize.work import NeedsWork, Results, Work
from disttune.runtime.job_data import JobData
from disttune.space.candidate import Candidate
from disttune.strategy.calibration_sizes import SAMPLES_RECIPE


class WorksMissingError(Exception):
    """A candidate cannot be built before these works are done; no failure."""

    def __init__(self, works: tuple[Work, ...]):
        super().__init__(f"{len(works)} works are missing")
        self.works = works


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
        """The engine that can build a candidate now, and the candidate without its calibration size.

        Raises:
            WorksMissingError: it needs results that have not been learnt.
            TrialError: it can never be built.
        """
        recipes = dict(candidate.recipes)
        size = recipes.pop(SAMPLES_RECIPE, self._first_size)
        assert isinstance(size, int)
        engine, plain = self._engine(size), replace(candidate, recipes=tuple(sorted(recipes.items())))
        if isinstance(engine, NeedsWork) and (works := engine.missing(plain)):
            raise WorksMissingError(tuple(replace(work, engine=size) for work in works))
        return engine, plain

    def run(self, work: Work) -> Results:
        """Do a work.

        Raises:
            TrialError: it cannot be done.
        """
        return self._working(work).run(work)

    def learn(self, work: Work, results: Results | str) -> None:
        """Take the result of a work, or the reason why there is none."""
        self._working(work).learn(work, results)

    def _working(self, work: Work) -> NeedsWork:
        engine = self._engine(work.engine)
        assert isinstance(engine, NeedsWork)
        return engine

    def _engine(self, size: int) -> Engine:
        if size not in self._engines:
            self._engines[size] = self._data.engine(size)
        return self._engines[size]
