"""What a strategy's own stages have shown so far: the rows, the best of them, what was tried."""

from collections.abc import Generator, Iterable

from disttune.space.candidate import Candidate
from disttune.space.space import Space
from disttune.strategy.stage import Stage, StageResult
from disttune.strategy.trial import Trial
from disttune.strategy.tuning import Tuning


class SoFar:
    """Collects the rows of the stages that `run` yields.

    Args:
        tuning: knows which of two rows is better.
        default: the best candidate as long as no row has a metric.
        rows: that count already.
    """

    def __init__(self, tuning: Tuning, default: Candidate, rows: Iterable[Trial] = ()):
        self._tuning = tuning
        self._default = default
        self.rows = list(rows)

    def run(self, stage: Stage) -> Generator[Stage, StageResult, StageResult]:
        """Yield a stage and keep its rows: `result = yield from so_far.run(stage)`."""
        result = yield stage
        self.rows += result.trials
        return result

    @property
    def space(self) -> Space:
        """Of the job."""
        return self._tuning.space

    @property
    def best(self) -> Candidate:
        """The candidate of the best row."""
        trial = self._tuning.best_of(self.rows)
        return trial.candidate if trial is not None else self._default

    @property
    def tried(self) -> set[str]:
        """Digests of all candidates of the rows."""
        return {row.candidate.digest for row in self.rows}
