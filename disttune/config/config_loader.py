"""Config sets as base_tuning has them: an order over indices (`Sampler`), and the configs in that order."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import TypeAlias

from disttune.config.algorithms import AlgorithmConfig, expand_config_set
from disttune.config.errors import InputError

ConfigSet: TypeAlias = AlgorithmConfig | Sequence[AlgorithmConfig]


class Sampler(ABC):
    """An order over the single-valued configs of a config set.

    Args:
        config_source: the configs, lists expanded.
    """

    def __init__(self, config_source: Sequence[AlgorithmConfig]):
        self.config_source = config_source

    @abstractmethod
    def __iter__(self) -> Iterator[int]:
        """Indices into `config_source`."""


class SequentialSampler(Sampler):
    """From the first to the last."""

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self.config_source)))


default_sampler = SequentialSampler


class ConfigLoader:
    """Goes through the configs of a config set.

    Args:
        config_set: one config or several; lists in them are expanded.
        sampler: gives the order.
        skip_verified_config: whether a config equal to an earlier one is left out.
    """

    def __init__(
        self,
        config_set: ConfigSet,
        sampler: type[Sampler] = default_sampler,
        skip_verified_config: bool = True,
    ):
        self.configs = expand_config_set(config_set)
        self.sampler = sampler(self.configs)
        self.skip_verified_config = skip_verified_config

    def __iter__(self) -> Iterator[AlgorithmConfig]:
        seen: list[AlgorithmConfig] = []
        for index in self.sampler:
            if not 0 <= index < len(self.configs):
                name, n = type(self.sampler).__name__, len(self.configs)
                raise InputError(f"{name} gave index {index!r}; there are {n} configs")
            config = self.configs[index]
            if self.skip_verified_config and config in seen:
                continue
            seen.append(config)
            yield config

    def __len__(self) -> int:
        return len(self.configs)
