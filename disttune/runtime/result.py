"""What a job comes to: everything of result.json, typed, plus the rows of the trial table."""

from dataclasses import asdict, dataclass
from typing import Any

from disttune.strategy.trial import Latency, Trial
from disttune.strategy.tuning import Sensitivity

SCHEMA = 1
EXIT_CODES = {"goal_met": 0, "goal_not_met": 3, "interrupted": 75}


@dataclass(frozen=True)
class Baseline:
    """The float model: `metric` is comparable with a trial's, `values` is one for each evaluator."""

    metric: float
    values: tuple[float, ...]
    size_bytes: int


@dataclass(frozen=True)
class Best:
    """The best trial."""

    trial: int
    digest: str
    model_digest: str | None
    metric: float | None
    values: tuple[float, ...] | None
    meets_goal: bool
    size_bytes: int | None
    candidate: dict[str, Any]
    latency: Latency | None = None


@dataclass(frozen=True)
class TuningResult:
    """The result of a job.

    Args:
        status: "goal_met", "goal_not_met" or "interrupted".
        stop_reason: "goal", "max_trials", "timeout", "space", "strategy", "find_n", "patience",
            "signal" or "batch_end".
        baseline: of the float model.
        goal: what a metric must reach.
        best: None when no trial has a metric.
        n_trials: committed rows that count.
        n_probes: measurements beside the trials.
        seconds: over all sessions.
        n_ranks: of the last session.
        versions: of the packages that decide the result.
        evaluators: their names, in the order of `Trial.values`.
        trials: the table.
        warnings: what the user should know.
        pareto: numbers of the trials on the Pareto front of metric, size, latency and ops in float.
        higher_is_better: direction of the metric.
        sensitivity: what strategies of mixed precision have measured of groups of ops, the worst first.
    """

    status: str
    stop_reason: str
    baseline: Baseline
    goal: float
    best: Best | None
    n_trials: int
    n_probes: int
    seconds: float
    n_ranks: int
    versions: dict[str, str]
    evaluators: tuple[str, ...]
    trials: tuple[Trial, ...] = ()
    warnings: tuple[str, ...] = ()
    pareto: tuple[int, ...] = ()
    higher_is_better: bool = True
    sensitivity: tuple[Sensitivity, ...] = ()

    @property
    def exit_code(self) -> int:
        return EXIT_CODES[self.status]

    def to_dict(self) -> dict[str, Any]:
        """The content of result.json, plain JSON types."""
        return {
            "schema": SCHEMA,
            "status": self.status,
            "stop_reason": self.stop_reason,
            "baseline": asdict(self.baseline),
            "goal": self.goal,
            "higher_is_better": self.higher_is_better,
            "best": asdict(self.best) if self.best else None,
            "trials": self.n_trials,
            "probes": self.n_probes,
            "seconds": self.seconds,
            "ranks": self.n_ranks,
            "versions": self.versions,
            "evaluators": list(self.evaluators),
            "warnings": list(self.warnings),
            "pareto": list(self.pareto),
            "sensitivity": [
                {"ops": list(row.ops), "precision": row.precision, "loss": row.loss}
                for row in self.sensitivity
            ],
        }


def best_of(trial: Trial | None) -> Best | None:
    if trial is None:
        return None
    return Best(
        trial=trial.number,
        digest=trial.candidate.digest,
        model_digest=trial.model_digest,
        metric=trial.metric,
        values=trial.values,
        meets_goal=trial.meets_goal,
        size_bytes=trial.size_bytes,
        candidate=trial.candidate.to_dict(),
        latency=trial.latency,
    )
