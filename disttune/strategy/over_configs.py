"""Any strategy over a config set: it searches the space that the configs span."""

from collections.abc import Generator, Mapping, Sequence
from typing import Any

from disttune.config.algorithms import AlgorithmConfig
from disttune.strategy.config_candidates import expanded, spanned_space
from disttune.strategy.stage import Stage, StageResult
from disttune.strategy.strategy import Strategy
from disttune.strategy.tuning import Tuning


class OverConfigs:
    """A strategy that takes no configs of its own, over a config set.

    Args:
        strategy: that searches.
        configs: algorithm configs, or their dicts as a job file has them.
    """

    def __init__(self, strategy: Strategy, configs: Sequence[AlgorithmConfig | Mapping[str, Any]]):
        self.strategy = strategy
        self.configs = expanded(configs)
        self.tries_calibration_sizes = getattr(strategy, "tries_calibration_sizes", False)

    def stages(self, tuning: Tuning) -> Generator[Stage, StageResult, None]:
        tuning.space = spanned_space(self.configs, tuning)
        yield from self.strategy.stages(tuning)
