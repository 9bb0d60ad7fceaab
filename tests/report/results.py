"""Trials and results in one line, for tests of the reports."""

from typing import Any

from disttune.runtime.result import Baseline, TuningResult, best_of
from disttune.strategy.trial import Trial
from tests.simulated import small_space

SPACE = small_space(3)


def trial(number: int, metric: float | None = None, **changes: Any) -> Trial:
    """A row; with a metric it is "ok", without it has failed."""
    facts: dict[str, Any] = {
        "stage": "all",
        "candidate": SPACE[number % SPACE.size],
        "status": "failed" if metric is None else "ok",
        "values": None if metric is None else (metric,),
        "metric": metric,
        "meets_goal": metric is not None and metric >= 0.9,
        "model_digest": f"{number:032x}",
        "size_bytes": 1500,
        "n_quantized": 3,
        "seconds": 0.25,
        "rank": number % 2,
        "reason": "" if metric is not None else "raised",
    }
    return Trial(number, **{**facts, **changes})


def result(*trials: Trial, best: Trial | None = None, **changes: Any) -> TuningResult:
    facts: dict[str, Any] = {
        "status": "goal_met" if best and best.meets_goal else "goal_not_met",
        "stop_reason": "goal",
        "baseline": Baseline(0.95, (0.95,), 3000),
        "goal": 0.9,
        "best": best_of(best),
        "n_trials": sum(t.counts for t in trials),
        "n_probes": 0,
        "seconds": 75.0,
        "n_ranks": 2,
        "versions": {"disttune": "0.1.0"},
        "evaluators": ("accuracy",),
        "trials": trials,
    }
    return TuningResult(**{**facts, **changes})
