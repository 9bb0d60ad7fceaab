"""The search of a script: which configs to try and when to stop (names of base_tuning)."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from disttune.config.algorithms import AlgorithmConfig, config_from_dict, expand_config_set
from disttune.config.config_loader import ConfigLoader, Sampler
from disttune.config.errors import InputError
from disttune.config.nearest import unknown_name


@dataclass(frozen=True)
class TuningConfig:
    """Handed to `autotune` in place of a job file.

    Args:
        config_set: one algorithm config or several; kept as a tuple.
        timeout: seconds for the job; 0: no limit.
        max_trials: distinct models to measure at most.
        sampler: "sequential", every config in order; the name of any other strategy ("random", "tpe",
            "bayesian", "basic" ...), which searches the space that the configs span, each op having the
            options that they give it; or a `Sampler` class that orders the configs.
        tolerable_loss: fraction of the baseline that may be lost; between -1 and 1.
    Raises:
        InputError: a value is wrong; one line for each mistake.
    """

    config_set: AlgorithmConfig | Sequence[AlgorithmConfig]
    timeout: float = 0
    max_trials: int = 100
    sampler: str | type[Sampler] = "sequential"
    tolerable_loss: float = 0.01

    def __post_init__(self) -> None:
        given = self.config_set
        configs = tuple(given) if isinstance(given, list | tuple) else (given,)
        object.__setattr__(self, "config_set", configs)
        if mistakes := list(self._mistakes(configs)):
            raise InputError("\n".join(f"TuningConfig: {text}" for text in mistakes))

    def configs(self) -> list[AlgorithmConfig]:
        """The single-valued configs, in the order of the sampler where that is a class."""
        if isinstance(self.sampler, str):
            return expand_config_set(self.config_set)
        return list(ConfigLoader(self.config_set, self.sampler))

    @property
    def strategy(self) -> str:
        """Name of the strategy that goes through the configs."""
        return self.sampler if isinstance(self.sampler, str) else "sequential"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; the order that a `Sampler` class gives is that of the configs then."""
        configs = [self.config_set] if isinstance(self.config_set, AlgorithmConfig) else self.config_set
        if not isinstance(self.sampler, str):
            configs = self.configs()
        return {
            "config_set": [c.to_dict() for c in configs],
            "timeout": self.timeout,
            "max_trials": self.max_trials,
            "sampler": self.strategy,
            "tolerable_loss": self.tolerable_loss,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote."""
        known = [*cls.__dataclass_fields__]
        if unknown := [unknown_name("key", k, known) for k in data if k not in known]:
            raise InputError("\n".join(f"TuningConfig: {text}" for text in unknown))
        return cls(**{**data, "config_set": [config_from_dict(c) for c in data["config_set"]]})

    def _mistakes(self, configs: tuple[Any, ...]) -> list[str]:
        found = []
        if not configs:
            found.append("config_set must hold at least one algorithm config; it is empty")
        found += [
            f"config_set takes configs such as StaticQuantConfig(); {c!r} was given"
            for c in configs
            if not isinstance(c, AlgorithmConfig)
        ]
        if not _is_number(self.timeout) or self.timeout < 0:
            found.append(f"timeout must be a number of seconds, at least 0; {self.timeout!r} was given")
        if isinstance(self.max_trials, bool) or not isinstance(self.max_trials, int) or self.max_trials < 1:
            found.append(f"max_trials must be a whole number of at least 1; {self.max_trials!r} was given")
        if not self.sampler or not (isinstance(self.sampler, str) or _is_sampler(self.sampler)):
            found.append(
                'sampler must be the name of a strategy ("sequential", "random", "tpe" ...), or a class '
                f"derived from Sampler; {self.sampler!r} was given"
            )
        if not _is_number(self.tolerable_loss) or not -1 < self.tolerable_loss < 1:
            found.append(
                "tolerable_loss must be more than -1 and less than 1 (0.01 is one percent); "
                f"{self.tolerable_loss!r} was given"
            )
        return found


def _is_sampler(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, Sampler)


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= sys.float_info.max  # neither NaN nor infinite, nor a larger int
