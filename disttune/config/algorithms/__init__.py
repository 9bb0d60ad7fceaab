"""Configs of quantization algorithms: one file each, found by their name in the registry."""

from disttune.config.algorithms.algorithm_config import AlgorithmConfig
from disttune.config.algorithms.registry import (
    algorithm_class,
    algorithm_names,
    config_from_dict,
    expand_config_set,
    register_algorithm,
)

__all__ = [
    "AlgorithmConfig", "algorithm_class", "algorithm_names", "config_from_dict", "expand_config_set",
    "register_algorithm",
]  # fmt: skip
