"""Strategies: generators of stages. One file per strategy."""

from disttune.strategy.registry import make_strategy, register_strategy, strategy_names
from disttune.strategy.stage import Probe, Stage, StageResult
from disttune.strategy.strategy import Strategy
from disttune.strategy.trial import Trial
from disttune.strategy.tuning import Tuning

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
