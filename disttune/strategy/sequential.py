"""The candidates of a config set in their documented order (ONNX neural-compressor's default sampler)."""

from collections.abc import Generator, Mapping, Sequence
from typing import Any

from disttune.config.algorithms import AlgorithmConfig
from disttune.strategy.config_candidates import candidate_of, expanded
from disttune.strategy.registry import register_strategy
from disttune.strategy.stage import Stage, StageResult
from disttune.strategy.tuning import Tuning


@register_strategy("sequential")
class Sequential:
    """One stage: every config, lists expanded, in order.

    Args:
        configs: algorithm configs, or their dicts as a job file has them
            (`{algorithm = "static", per_channel = [false, true]}`); see `expand` for the order of lists.
    """

    def __init__(self, configs: Sequence[AlgorithmConfig | Mapping[str, Any]]):
        self.configs = expanded(configs)

    def stages(self, tuning: Tuning) -> Generator[Stage, StageResult, None]:
        candidates = [candidate_of(config, tuning) for config in self.configs]
        yield Stage("configs in order", iter(candidates), needs="goal")
