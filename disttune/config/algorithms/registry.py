"""Algorithm configs by name: adding one is a new file in this package with `@register_algorithm`.

Third parties use the entry-point group `disttune.algorithms`.
"""

import importlib
import importlib.metadata
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from disttune.config.algorithms.algorithm_config import AlgorithmConfig
from disttune.config.errors import InputError
from disttune.config.nearest import unknown_name

C = TypeVar("C", bound=type[AlgorithmConfig])

_REGISTERED: dict[str, type[AlgorithmConfig]] = {}


def register_algorithm(name: str) -> Callable[[C], C]:
    """Class decorator: make a config class known by the name of its algorithm."""

    def register(cls: C) -> C:
        cls.algorithm = name
        _REGISTERED[name] = cls
        return cls

    return register


def algorithm_names() -> list[str]:
    """Every name that `algorithm_class` accepts, sorted."""
    _import_shipped()
    return sorted({*_REGISTERED, *(e.name for e in _entry_points())})


def algorithm_class(name: str) -> type[AlgorithmConfig]:
    """The config class of an algorithm.

    Raises:
        InputError: there is none of that name.
    """
    _import_shipped()
    if name not in _REGISTERED:
        for entry in _entry_points():
            if entry.name == name:
                register_algorithm(name)(entry.load())
    if name not in _REGISTERED:
        raise InputError(unknown_name("algorithm", name, algorithm_names()))
    return _REGISTERED[name]


def config_from_dict(data: Mapping[str, Any]) -> AlgorithmConfig:
    """Read what `to_dict` of any registered config wrote.

    Raises:
        InputError: the algorithm or a parameter is unknown, or a value wrong.
    """
    if not isinstance(data, Mapping):
        raise InputError(f'an algorithm config is a table such as {{algorithm = "static"}}, not {data!r}')
    if not isinstance(data.get("algorithm"), str):
        raise InputError(f'an algorithm config needs "algorithm": one of {", ".join(algorithm_names())}')
    return algorithm_class(data["algorithm"]).from_dict(data)


def expand_config_set(config_set: AlgorithmConfig | Sequence[AlgorithmConfig]) -> list[AlgorithmConfig]:
    """The single-valued configs of one config or of several, one after another in the order given."""
    configs = [config_set] if isinstance(config_set, AlgorithmConfig) else config_set
    return [single for config in configs for single in config.expand()]


def _import_shipped() -> None:
    package = importlib.import_module("disttune.config.algorithms")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")


def _entry_points() -> importlib.metadata.EntryPoints:
    return importlib.metadata.entry_points(group="disttune.algorithms")
