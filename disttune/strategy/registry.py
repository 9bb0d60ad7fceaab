"""Strategies by name: shipped ones, entry points, and a user's own `file.py:Class`.

Adding one is a new file in this package with a class that has `stages(self, tuning)` and
`@register_strategy("name")`; third parties use the entry-point group `disttune.strategies`.
"""

import importlib
import importlib.metadata
import importlib.util
import inspect
import pkgutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from disttune.config.errors import DisttuneError, InputError, UserCodeError
from disttune.config.nearest import unknown_name
from disttune.strategy.over_configs import OverConfigs
from disttune.strategy.strategy import Strategy

_REGISTERED: dict[str, type] = {}
C = TypeVar("C", bound=type)


def register_strategy(name: str) -> Callable[[C], C]:
    """Class decorator: make a strategy known by the name users give in `tuning.strategy`."""

    def register(cls: C) -> C:
        _REGISTERED[name] = cls
        return cls

    return register


def strategy_names() -> list[str]:
    """Every name that `make_strategy` accepts, sorted (a user's file is accepted as well)."""
    import_shipped()
    return sorted({*_REGISTERED, *(e.name for e in _entry_points())})


def make_strategy(name: str, kwargs: Mapping[str, Any], folder: Path) -> Strategy:
    """The strategy of a job.

    Args:
        name: a registered name, an entry point, or `file.py:Class`.
        kwargs: `tuning.strategy_kwargs`, handed to the class. `configs`, where the class has no such
            keyword, is a config set whose options make the space that is searched.
        folder: relative files are looked up here.
    Raises:
        InputError: the name or a keyword is unknown (with the nearest one), or a value is wrong.
        UserCodeError: the file cannot be imported or has no such class.
    """
    cls = _load_file(name, folder) if ".py:" in name else _find(name)
    accepted = inspect.signature(cls).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in accepted.values())
    if "configs" in kwargs and "configs" not in accepted and not takes_any:
        others = {key: value for key, value in kwargs.items() if key != "configs"}
        return OverConfigs(make_strategy(name, others, folder), kwargs["configs"])
    for key in kwargs:
        if key not in accepted and not takes_any:
            where = f"[tuning] strategy_kwargs, strategy {name}: "
            raise InputError(where + unknown_name("keyword", key, accepted))
    missing = [
        p.name for p in accepted.values() if p.default is p.empty and p.name not in kwargs and _named(p)
    ]
    if missing:
        raise InputError(f'strategy {name} needs {", ".join(missing)}: give it in "tuning.strategy_kwargs"')
    try:
        strategy: Strategy = cls(**kwargs)
    except DisttuneError:
        raise
    except Exception as error:
        raise InputError(
            f"[tuning] strategy_kwargs, strategy {name} refuses them: {type(error).__name__}: {error}"
        ) from error
    return strategy


def _find(name: str) -> type:
    import_shipped()
    if name in _REGISTERED:
        return _REGISTERED[name]
    for entry in _entry_points():
        if entry.name == name:
            return _loaded(entry)
    raise InputError("[tuning] strategy: " + unknown_name("strategy", name, strategy_names()))


def _loaded(entry: importlib.metadata.EntryPoint) -> type:
    where = f'[tuning] strategy: entry point "{entry.name}" ({entry.value})'
    try:
        cls = entry.load()
    except Exception as error:
        raise UserCodeError(f"{where} cannot be loaded: {type(error).__name__}: {error}") from error
    if not _is_strategy(cls):
        raise UserCodeError(f"{where}: it is no class with a method stages(self, tuning)")
    loaded: type = cls
    return loaded


def _is_strategy(value: object) -> bool:
    return isinstance(value, type) and callable(getattr(value, "stages", None))


def _named(parameter: inspect.Parameter) -> bool:
    return parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)


def _load_file(reference: str, folder: Path) -> type:
    file_name, _, class_name = reference.rpartition(":")
    path = folder / file_name
    if not path.is_file():
        raise UserCodeError(f"[tuning] strategy: no file {path}; the form is file.py:Class")
    spec = importlib.util.spec_from_file_location(f"_disttune_strategy_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))  # it may import what lies beside it
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise UserCodeError(f"{path} cannot be imported: {type(error).__name__}: {error}") from error
    cls = getattr(module, class_name, None)
    if cls is not None and not _is_strategy(cls):
        raise UserCodeError(f"{path}: {class_name} is no class with a method stages(self, tuning)")
    if not isinstance(cls, type):
        having = [n for n, c in vars(module).items() if _is_strategy(c)]
        raise UserCodeError(f"{path}: " + unknown_name("strategy class", class_name, having))
    return cls


def import_shipped() -> None:
    """Import every module of this package, so that all it registers is known."""
    package = importlib.import_module("disttune.strategy")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"disttune.strategy.{module.name}")


def _entry_points() -> importlib.metadata.EntryPoints:
    return importlib.metadata.entry_points(group="disttune.strategies")
