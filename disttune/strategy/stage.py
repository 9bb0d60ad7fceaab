"""What a strategy yields (`Stage`) and gets back (`StageResult`).

Pure data. Items of a stage may run at the same time, on any ranks; their results are committed in order.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from disttune.config.goal import Goal
from disttune.space.candidate import Candidate
from disttune.strategy.trial import Trial


@dataclass(frozen=True)
class Probe:
    """A measurement that is not a trial, e.g. the error of one op's output.

    Args:
        kind: name of the probe, known to the trial process.
        arguments: plain JSON values.
        candidate: the candidate that it measures, if any.
        cost: expected cost relative to the other probes of its stage; the longest start first.
    """

    kind: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    candidate: Candidate | None = None
    cost: float = 1.0


Item = Candidate | Probe


@dataclass(frozen=True)
class Stage:
    """An ordered, possibly lazy list of items that may run at the same time.

    Args:
        name: for progress and reports.
        items: candidates or probes; a list is known whole, any other iterable is drawn lazily.
        needs: "metric" when every metric is needed, "goal" when only whether the goal is met is.
        goal_stops: whether a trial that meets the goal ends the search (with stop_at = "goal").
    """

    name: str
    items: Iterable[Item]
    needs: Literal["metric", "goal"] = "metric"
    goal_stops: bool = True


@dataclass(frozen=True)
class StageResult:
    """The committed results of a stage.

    Args:
        name: of the stage.
        goal: what the trials were held against.
        trials: its rows in trial order, duplicates included.
        probes: values of its probes in order; None for one that failed.
        reason: "done", or "space" when repeats in a row ended it.
    """

    name: str
    goal: Goal
    trials: tuple[Trial, ...] = ()
    probes: tuple[Any, ...] = ()
    reason: Literal["done", "space"] = "done"

    @property
    def goal_met(self) -> bool:
        return any(t.meets_goal for t in self.trials)

    def best_first(self) -> list[int]:
        """Positions in `trials`, best metric first; those without a metric last; ties in trial order."""
        sign = -1.0 if self.goal.higher_is_better else 1.0

        def key(position: int) -> tuple[bool, float]:
            metric = self.trials[position].metric
            return (metric is None, 0.0 if metric is None else sign * metric)

        return sorted(range(len(self.trials)), key=key)
