"""The Pareto front of a trial table: trials that no other one is at least as good as in everything.

Pure. Metric, size, latency where it was measured, and the share of ops in float count; a trial without a
latency is behind those that have one.
"""

import math
from collections.abc import Iterable

from disttune.strategy.trial import Trial


def pareto_front(trials: Iterable[Trial], higher_is_better: bool) -> tuple[int, ...]:
    """Numbers of the trials on the front, in order; of equal ones the first.

    Args:
        trials: rows in trial order; those that cannot become the best are left out.
        higher_is_better: direction of the metric.
    """
    sign = -1.0 if higher_is_better else 1.0
    points = [(trial.number, _costs(trial, sign)) for trial in trials if trial.eligible]
    front: list[tuple[int, tuple[float, ...]]] = []
    for number, costs in points:
        if any(_covers(other, costs) for _, other in front):
            continue
        front = [(n, other) for n, other in front if not _covers(costs, other)]
        front.append((number, costs))
    return tuple(number for number, _ in front)


def _costs(trial: Trial, sign: float) -> tuple[float, ...]:
    """Less is better in each."""
    assert trial.metric is not None
    return (
        sign * trial.metric,
        float(trial.size_bytes or 0),
        trial.latency.ratio if trial.latency else math.inf,
        1 - len(trial.candidate.quantized_ops) / max(1, len(trial.candidate.ops)),
    )


def _covers(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    """Whether the first is at least as good in everything."""
    return all(a <= b for a, b in zip(one, other, strict=True))
