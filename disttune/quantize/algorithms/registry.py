"""Weight algorithms by name: one module of this package each, loaded when first asked for."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from typing import TypeVar

from disttune.config.errors import InternalError
from disttune.quantize import algorithms
from disttune.quantize.algorithms.layer import LayerAlgorithm

_algorithms: dict[str, LayerAlgorithm] = {}
_A = TypeVar("_A", bound="type[LayerAlgorithm]")


def register_layer_algorithm(name: str) -> Callable[[_A], _A]:
    """Class decorator: the weight method of this name, a key of `config.weight_methods.WEIGHT_METHODS`."""

    def register(algorithm: _A) -> _A:
        _algorithms[name] = algorithm()
        return algorithm

    return register


def find_layer_algorithm(name: str) -> LayerAlgorithm:
    """The algorithm of a weight method.

    Raises:
        InternalError: no module has registered it.
    """
    if name not in _algorithms:
        for module in pkgutil.iter_modules(algorithms.__path__):
            importlib.import_module(f"{algorithms.__name__}.{module.name}")
    if name not in _algorithms:
        raise InternalError(f"no weight algorithm {name}; there are {', '.join(sorted(_algorithms))}")
    return _algorithms[name]
