"""Packing what a script hands to `autotune`: its functions by value, its calibration feeds drained once."""

import inspect
import sys
import sysconfig
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import cloudpickle

from disttune.config.errors import UserCodeError
from disttune.evaluate.user_code import describe_exception, files_digest
from disttune.runtime.messages import Functions


def pack(handed: Mapping[str, Any]) -> Functions:
    """Pickle functions by value, so that ranks without the caller's files can run them.

    Args:
        handed: "eval_fn": a function, dict or list; "feeds": calibration feeds or None.
    Raises:
        UserCodeError: something cannot be pickled; names it.
    """
    functions = list(_functions_in(handed.get("eval_fn")))
    modules = {m for f in functions if (m := _own_module(f)) is not None}
    with _by_value(modules):
        for name, value in handed.items():
            _check_pickles(name, value)
        pickled = cloudpickle.dumps(dict(handed))
    sources = {f"{i}-{getattr(f, '__name__', 'function')}.py": _source(f) for i, f in enumerate(functions)}
    return Functions(pickled, files_digest(sources), tuple(p for p in sys.path if p))


def drain(reader: Any, n_samples: int) -> list[Any] | None:
    """Calibration feeds from a reader with `get_next()`, an iterable, or a function that gives one.

    Args:
        reader: None: there are none.
        n_samples: no more feeds than this are needed, however small.
    Raises:
        UserCodeError: the reader raised.
    """
    if reader is None:
        return None
    try:
        items = reader() if callable(reader) and not hasattr(reader, "get_next") else reader
        if hasattr(items, "get_next"):
            items = iter(items.get_next, None)
        return [feed for _, feed in zip(range(n_samples), items, strict=False)]
    except Exception as error:
        raise UserCodeError(f"calibration_data_reader raised {describe_exception(error)}") from error


def _functions_in(value: Any) -> Iterator[Callable[..., Any]]:
    if isinstance(value, Mapping):
        yield from _functions_in(value.get("eval_fn"))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _functions_in(item)
    elif callable(value):
        yield value


def _own_module(function: object) -> ModuleType | None:
    """The user's module a function comes from; None for installed packages, which every node has."""
    module = sys.modules.get(getattr(function, "__module__", "") or "")
    file = getattr(module, "__file__", None)
    if module is None or file is None or module.__name__ == "__main__":
        return None
    installed = {sysconfig.get_path(kind) for kind in ("purelib", "platlib", "stdlib")}
    return None if any(file.startswith(f"{place}/") for place in installed) else module


@contextmanager
def _by_value(modules: set[ModuleType]) -> Iterator[None]:
    for module in modules:
        cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in modules:
            cloudpickle.unregister_pickle_by_value(module)


def _check_pickles(name: str, value: Any) -> None:
    try:
        cloudpickle.dumps(value)
    except Exception as error:
        what = f"{name} = {value!r}"
        culprit = _unpicklable_global(value)
        if culprit:
            what += f", which uses {culprit}"
        raise UserCodeError(
            f"{what} cannot be pickled for the trial process ({type(error).__name__}: {error}): make the "
            "object inside the function, or run trials in the caller's process with "
            'runtime.isolation = "none"'
        ) from error


def _unpicklable_global(value: Any) -> str | None:
    """The variable of a function that cannot be pickled, where one can be told."""
    for function in _functions_in(value):
        try:
            seen = inspect.getclosurevars(function)
        except TypeError:
            continue
        for name, item in {**seen.globals, **seen.nonlocals}.items():
            try:
                cloudpickle.dumps(item)
            except Exception:
                return f'"{name}" ({type(item).__module__}.{type(item).__qualname__})'
    return None


def _source(function: Callable[..., Any]) -> bytes:
    try:
        return inspect.cleandoc(inspect.getsource(function)).encode()
    except (OSError, TypeError):
        code = getattr(function, "__code__", None)
        return code.co_code if code else repr(type(function)).encode()
