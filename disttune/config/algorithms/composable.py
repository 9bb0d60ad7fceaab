"""Several configs for one model: `RTNConfig(white_list=["MatMul"]) + StaticQuantConfig(...)`."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from disttune.config.algorithms.algorithm_config import AlgorithmConfig
from disttune.config.algorithms.registry import config_from_dict, register_algorithm
from disttune.config.errors import InputError
from disttune.config.recipes import RecipeValue


@register_algorithm("composed")
@dataclass(frozen=True)
class ComposableConfig(AlgorithmConfig):
    """What `+` makes of configs of different classes: an op takes the first one that quantizes it.

    Args:
        configs: at least one, none composed itself.
    """

    configs: tuple[AlgorithmConfig, ...] = field(default=())

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.configs or any(isinstance(c, ComposableConfig) for c in self.configs):
            raise InputError("ComposableConfig: configs must hold at least one config, and none composed")

    @property
    def approaches(self) -> frozenset[str]:
        return frozenset[str]().union(*(config.approaches for config in self.configs))

    @property
    def needs_data(self) -> bool:
        return any(config.needs_data for config in self.configs)

    def recipes(self) -> dict[str, RecipeValue]:
        return {name: value for config in reversed(self.configs) for name, value in config.recipes().items()}

    def expand(self) -> list[Self]:
        """Every combination of the configs' own expansions; the first config varies fastest."""
        rows = itertools.product(*(config.expand() for config in reversed(self.configs)))
        return [type(self)(tuple(reversed(row)), local=self.local) for row in rows]

    @property
    def n_configs(self) -> int:
        n = 1
        for config in self.configs:
            n *= config.n_configs
        return n

    def to_dict(self) -> dict[str, Any]:
        return super().to_dict() | {"configs": [config.to_dict() for config in self.configs]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        values = dict(data)
        configs = values.pop("configs", None)
        if not isinstance(configs, list | tuple):
            raise InputError(f"{cls.__name__}: configs is a list of configs; {configs!r} was given")
        if unknown := [name for name in values if name not in ("algorithm", "local")]:
            raise InputError(f'{cls.__name__}: no parameter "{unknown[0]}". All: configs, local.')
        local = tuple((op, config_from_dict(config)) for op, config in values.get("local", {}).items())
        return cls(tuple(config_from_dict(config) for config in configs), local=local)
