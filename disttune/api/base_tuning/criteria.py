"""TuningCriterion and AccuracyCriterion: the `tuning` and `accuracy` sections of a job, by INC's names."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

OBJECTIVES = {"performance": "latency", "modelsize": "size", "accuracy": "first"}  # INC's to ours


@dataclass(frozen=True)
class TuningCriterion:
    """When to stop, and what to try.

    Args:
        timeout: seconds for the job; 0: no limit.
        max_trials: distinct models to measure at most.
        objective: what decides among models that meet the goal: "first", "latency", "size", "float_ops", or
            INC's "performance" and "modelsize".
        strategy: name of a strategy; None: the default.
        strategy_kwargs: keywords of the strategy's class.
    """

    timeout: float = 0
    max_trials: int = 100
    objective: str = "first"
    strategy: str | None = None
    strategy_kwargs: Mapping[str, Any] | None = None

    def to_section(self) -> dict[str, Any]:
        """The `tuning` section of a job."""
        section: dict[str, Any] = {
            "timeout": self.timeout,
            "max_trials": self.max_trials,
            "objective": OBJECTIVES.get(self.objective, self.objective),
        }
        if self.strategy is not None:
            section["strategy"] = self.strategy
        if self.strategy_kwargs is not None:
            section["strategy_kwargs"] = dict(self.strategy_kwargs)
        return section


@dataclass(frozen=True)
class AccuracyCriterion:
    """How much accuracy may be lost.

    Args:
        higher_is_better: direction of the metric.
        criterion: "relative" or "absolute".
        tolerable_loss: as a fraction of the baseline, or in units of the metric.
    """

    higher_is_better: bool = True
    criterion: str = "relative"
    tolerable_loss: float = 0.01

    def to_section(self) -> dict[str, Any]:
        """The `accuracy` section of a job; the direction belongs to the evaluation there."""
        return {"criterion": self.criterion, "tolerable_loss": self.tolerable_loss}


def as_section(section: Any) -> Any:
    """A section of a job given as one of these, or as it is."""
    return section.to_section() if isinstance(section, TuningCriterion | AccuracyCriterion) else section


def directed(eval_fn: Any, tune_config: Any) -> Any:
    """Evaluation functions with the direction of a job's AccuracyCriterion, where they name none."""
    accuracy = tune_config.get("accuracy") if isinstance(tune_config, Mapping) else None
    if eval_fn is None or not isinstance(accuracy, AccuracyCriterion) or accuracy.higher_is_better:
        return eval_fn
    if isinstance(eval_fn, list | tuple):
        return [directed(one, tune_config) for one in eval_fn]
    given = eval_fn if isinstance(eval_fn, Mapping) else {"eval_fn": eval_fn}
    return {"higher_is_better": False, **given}
