"""Strategies: generators of stages. One file per strategy.

The names are imported when they are first used: a trial process needs few of them.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from disttune.strategy.registry import make_strategy, register_strategy, strategy_names
    from disttune.strategy.stage import Probe, Stage, StageResult
    from disttune.strategy.strategy import Strategy
    from disttune.strategy.trial import Trial
    from disttune.strategy.tuning import Tuning

_HOMES = {
    "Probe": "stage",
    "Stage": "stage",
    "StageResult": "stage",
    "Strategy": "strategy",
    "Trial": "trial",
    "Tuning": "tuning",
    "make_strategy": "registry",
    "register_strategy": "registry",
    "strategy_names": "registry",
}
__all__ = [
    "Probe",
    "Stage",
    "StageResult",
    "Strategy",
    "Trial",
    "Tuning",
    "make_strategy",
    "register_strategy",
    "strategy_names",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'disttune.strategy' has no attribute '{name}'")
    return getattr(importlib.import_module(f"disttune.strategy.{_HOMES[name]}"), name)
