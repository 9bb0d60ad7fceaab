"""Stages of Auto Search's configs: each candidate once, and the config of best metric so far.

With objective "first" its trial is the job's best once the stage is through, if it meets the goal.
"""

from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass

from disttune.space.candidate import Candidate
from disttune.strategy.auto_search_candidates import ConfigCandidates, in_words
from disttune.strategy.auto_search_space import Config
from disttune.strategy.stage import Stage, StageResult
from disttune.strategy.trial import Trial
from disttune.strategy.tuning import Tuning

LISTED = 1024  # configs of a stage that is known whole, so that the longest may start first


@dataclass(frozen=True, slots=True)
class Best:
    """A config with its trial, which has a metric."""

    config: Config
    trial: Trial


class ConfigRun:
    """The stages of one job so far.

    Args:
        tuning: of the job.
    Raises:
        InputError: it quantizes no op statically.
    """

    def __init__(self, tuning: Tuning):
        self.tuning = tuning
        self.best: Best | None = None
        self.candidate = ConfigCandidates(tuning).candidate

    def stage(
        self, name: str, configs: Callable[[], Iterable[Config]], size: int, goal_stops: bool = True
    ) -> Generator[Stage, StageResult, dict[Candidate, float | None]]:
        """Run configs as one stage and tell the best of them.

        Args:
            name: of the stage.
            configs: gives them, the same each time.
            size: how many there are.
            goal_stops: as in `Stage`.
        Returns:
            What became of each candidate: its metric so that less is better, None without one.
        """
        items = _distinct(map(self.candidate, configs()))
        result = yield Stage(name, list(items) if size <= LISTED else items, goal_stops=goal_stops)
        self._take(result, configs)
        return {trial.candidate: self._loss(trial) for trial in result.trials}

    def _take(self, result: StageResult, configs: Callable[[], Iterable[Config]]) -> None:
        trial = next((result.trials[i] for i in result.best_first()), None)
        loss = None if trial is None else self._loss(trial)
        if trial is None or loss is None:
            self.tuning.note(f"{result.name}: no config has a metric")
            return
        config = next((c for c in configs() if self.candidate(c) == trial.candidate), None)
        if config is None:  # a resumed job has measured what would not be proposed any more
            return
        self.tuning.note(f"{result.name}, the best: {in_words(config)}")
        held = None if self.best is None else self._loss(self.best.trial)
        if held is None or loss < held:
            self.best = Best(config, trial)
            self.tuning.prefer(trial)

    def _loss(self, trial: Trial) -> float | None:
        sign = -1.0 if self.tuning.goal.higher_is_better else 1.0
        return None if trial.metric is None else sign * trial.metric


def _distinct(candidates: Iterable[Candidate]) -> Iterator[Candidate]:
    """Each candidate once: e.g. types of 16 bits are the same with every method."""
    seen = set()
    for candidate in candidates:
        if candidate.digest not in seen:
            seen.add(candidate.digest)
            yield candidate
