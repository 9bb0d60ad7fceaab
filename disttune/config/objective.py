"""Objectives: what decides among models that meet the goal, each as a ratio to the float model's."""

from collections.abc import Mapping

from disttune.config.errors import InputError
from disttune.config.nearest import unknown_name

OBJECTIVES = ("latency", "size", "float_ops")


def objective_weights(objective: str | Mapping[str, float]) -> dict[str, float]:
    """Weight of each measure that counts; none for "first".

    Raises:
        InputError: a measure is unknown.
    """
    weights = {objective: 1.0} if isinstance(objective, str) else dict(objective)
    if weights == {"first": 1.0}:
        return {}
    for name in weights:
        if name not in OBJECTIVES:
            raise InputError("[tuning] objective: " + unknown_name("objective", name, ("first", *OBJECTIVES)))
    return {name: weight for name, weight in weights.items() if weight}
