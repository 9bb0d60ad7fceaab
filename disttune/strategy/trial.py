"""A committed trial: a row of the trial table, as strategies, reports and the API see it.

Pure data.
"""

from dataclasses import dataclass
from typing import Literal

from disttune.space.candidate import Candidate

Status = Literal["ok", "pruned", "failed", "crashed", "timeout", "out_of_memory"]


@dataclass(frozen=True, slots=True)
class Latency:
    """How long one run of a model takes, against the float model's beside it on the same node.

    Args:
        ratio: median over pairs of runs, one of each model, one right after the other.
        spread: of these ratios, from the lower to the upper quartile.
        milliseconds: median of the model's runs.
        float_milliseconds: median of the float model's.
    """

    ratio: float
    spread: float
    milliseconds: float
    float_milliseconds: float


@dataclass(frozen=True, slots=True)
class Trial:
    """One row of the trial table.

    Args:
        number: in order of proposal, from 0.
        stage: name of the stage that proposed it.
        candidate: what was tried.
        status: "ok" has values; all others have none, with the cause in `reason`.
        values: one for each evaluator, or None.
        metric: the number that is compared (see `Goal.metric`), or None.
        meets_goal: never for a trial without values or one that quantizes no node.
        model_digest: of the model that was built, or None when building failed.
        duplicate_of: number of the first trial with the same candidate or the same model.
        size_bytes: of the built model; None when building failed.
        n_quantized: quantized nodes of the built model.
        seconds: quantizing and evaluation, on all ranks that had a part in it; 0 for a duplicate.
        rank: that measured it, or put its parts together.
        reason: cause of a status other than "ok".
        latency: where it was measured: of trials that meet the goal, when something asks for it.
        cancelled: ended by the job's timeout: it uses no trial and a resume may run it again.
    """

    number: int
    stage: str
    candidate: Candidate
    status: Status
    values: tuple[float, ...] | None = None
    metric: float | None = None
    meets_goal: bool = False
    model_digest: str | None = None
    duplicate_of: int | None = None
    size_bytes: int | None = None
    n_quantized: int | None = None
    seconds: float = 0.0
    rank: int = 0
    reason: str = ""
    latency: Latency | None = None
    cancelled: bool = False

    @property
    def counts(self) -> bool:
        """Whether it uses up one of `max_trials`."""
        return self.duplicate_of is None and not self.cancelled

    @property
    def eligible(self) -> bool:
        """Whether it may become the best."""
        return self.counts and self.metric is not None and bool(self.n_quantized)
