"""One number for a trial, less is better: what it lacks to the goal, and what it costs.

Pure. loss = 100 x shortfall / |baseline| + cost. The shortfall is that beyond the tolerance, 0 where the
goal is met; so one percent of the baseline weighs as much as the whole size of the float model. The cost
is the job's objective, with objective "first" the size as a share of the float model's. A latency that was
not measured (of a model that misses the goal) counts as the float model's.

Source: INC 2.6, tpe (accuracy beyond the threshold as a penalty, plus a speed term). What we do
differently: a penalty that is continuous at the threshold, sizes or latencies instead of one clocked run.
"""

from collections.abc import Callable

from disttune.strategy.trial import Trial
from disttune.strategy.tuning import Tuning

PENALTY = 100.0
FLOAT_LATENCY = 1.0  # as a ratio to the float model's


def loss(tuning: Tuning, trial: Trial) -> float | None:
    """The loss of a trial; None when it has no metric."""
    lacking = shortfall(tuning, trial)
    return None if lacking is None else PENALTY * lacking + cost(tuning, trial)


def losses(tuning: Tuning) -> Callable[[Trial], tuple[float] | None]:
    """The loss as a sampler takes it: of a trial alone, in a tuple."""

    def values(trial: Trial) -> tuple[float] | None:
        value = loss(tuning, trial)
        return None if value is None else (value,)

    return values


def shortfall(tuning: Tuning, trial: Trial) -> float | None:
    """What a trial lacks to the goal, as a share of |baseline|; None when it has no metric."""
    if trial.values is None:
        return None
    goal = tuning.goal
    scale = 1.0 if goal.separate else abs(goal.baseline_metric) or 1.0
    return goal.shortfall(trial.values) / scale


def latency_cost(tuning: Tuning, trial: Trial) -> float:
    """The job's objective; with "first" the latency as a ratio to the float model's."""
    if tuning.weights:
        return cost(tuning, trial)
    return trial.latency.ratio if trial.latency else FLOAT_LATENCY


def cost(tuning: Tuning, trial: Trial) -> float:
    """The job's objective, or the size as a share of the float model's."""
    if tuning.weights:
        return tuning.cost(trial, FLOAT_LATENCY)
    return (trial.size_bytes or 0) / max(1, tuning.summary.size_bytes)
