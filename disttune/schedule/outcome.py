"""What a worker found out about one item: facts, before any judgement."""

from dataclasses import dataclass
from typing import Any

from disttune.strategy.trial import Status


@dataclass(frozen=True, slots=True)
class Outcome:
    """The facts of one trial or probe.

    Args:
        status: "ok" with values (trial) or value (probe); anything else with a reason.
        values: one metric for each evaluator.
        value: of a probe, plain JSON.
        model_digest: of the built model; None when building failed.
        size_bytes: of the built model.
        n_quantized: quantized nodes of the built model.
        seconds: quantizing and evaluation, as the agent measured them; of a split trial on all its ranks.
        evaluation_s: the evaluation alone.
        rank: that measured it, or put its parts together.
        reason: cause of a status other than "ok".
        stderr_tail: last lines the evaluation wrote to stderr, when it did not end well.
        n_ranks: that evaluated it, each a part.
        bounds: best that the metric could still become, look after look; where trials may end early.
        packed: whether sessions packed their weights, as they do by default; a best one has to.
    """

    status: Status
    values: tuple[float, ...] | None = None
    value: Any = None
    model_digest: str | None = None
    size_bytes: int | None = None
    n_quantized: int | None = None
    seconds: float = 0.0
    evaluation_s: float = 0.0
    rank: int = 0
    reason: str = ""
    stderr_tail: str = ""
    n_ranks: int = 1
    bounds: tuple[float, ...] = ()
    packed: bool = True
