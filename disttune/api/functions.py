"""Packing what a script hands to `autotune`: its functions by value, its calibration feeds drained once."""

import functools
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import cloudpickle

from disttune.api.function_digest import functions_digest, is_users, used_by
from disttune.config.errors import DataError, UserCodeError
from disttune.evaluate.user_code import describe_exception
from disttune.runtime.start_messages import Functions

READER = "calibration_data_reader"


def pack(handed: Mapping[str, Any], inline: bool = False) -> Functions:
    """Pickle functions by value, so that ranks without the caller's files can run them.

    Args:
        handed: "eval_fn": a function, dict or list; "feeds": calibration feeds or None.
        inline: trials run in this process: nothing is pickled.
    Raises:
        UserCodeError: something cannot be pickled; names it.
    """
    eval_fn = handed.get("eval_fn")
    pickled = b""
    if handed and not inline:
        modules = {m for f in _functions_in(eval_fn) if (m := _own_module(f)) is not None}
        with _by_value(modules):
            for name, value in handed.items():
                _check_pickles(name, value)
            pickled = cloudpickle.dumps(dict(handed))
    return Functions(
        pickled, functions_digest(eval_fn, containers=not inline), tuple(p for p in sys.path if p)
    )


def drain(reader: Any, n_samples: int) -> list[Any] | None:
    """Calibration feeds from a reader with `get_next()`, an iterable, or a function that gives one.

    Args:
        reader: None: there are none.
        n_samples: the first feeds with so many samples are read, no more. A sample is a row where all
            arrays of each feed have the same number of rows, else a feed.
    Raises:
        UserCodeError: the reader raised.
        DataError: it gives nothing to iterate over.
    """
    if reader is None:
        return None
    feeds: list[Any] = []
    n_rows: int | None = 0
    try:
        for feed in _iterated(reader):
            feeds.append(feed)
            rows = None if n_rows is None else _rows(feed)
            n_rows = None if rows is None or n_rows is None else n_rows + rows
            if (len(feeds) if n_rows is None else n_rows) >= n_samples:
                break
    except DataError:
        raise
    except Exception as error:
        raise UserCodeError(f"{READER} raised {describe_exception(error)}") from error
    return feeds


def _iterated(reader: Any) -> Iterator[Any]:
    is_reader = hasattr(reader, "get_next") and not isinstance(reader, type)
    items = reader() if callable(reader) and not is_reader else reader
    if hasattr(items, "get_next"):
        return iter(items.get_next, None)
    if isinstance(items, Mapping | str | bytes) or not hasattr(items, "__iter__"):
        what = "returned" if items is not reader else "is of"
        raise DataError(
            f"{READER} {what} type {type(items).__name__}; it must be a reader with get_next(), an iterable "
            "of feeds {input: array}, or a function that returns one"
        )
    return iter(items)


def _rows(feed: Any) -> int | None:
    """The first dimension that all arrays of a feed share."""
    arrays = feed[0] if isinstance(feed, tuple | list) and feed else feed
    if not isinstance(arrays, Mapping) or not arrays:
        return None
    shapes = [getattr(a, "shape", None) for a in arrays.values()]
    rows = {int(shape[0]) if shape else None for shape in shapes}
    return rows.pop() if len(rows) == 1 else None


def _functions_in(value: Any) -> Iterator[Callable[..., Any]]:
    if isinstance(value, Mapping):
        yield from _functions_in(value.get("eval_fn"))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _functions_in(item)
    elif callable(value):
        yield value


def _own_module(function: Any) -> ModuleType | None:
    """The user's module a function comes from; None for installed packages, which every node has."""
    while isinstance(function, functools.partial):
        function = function.func
    module = sys.modules.get(getattr(function, "__module__", None) or "")
    return module if module is not None and module.__name__ != "__main__" and is_users(module) else None


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
        what = "calibration feeds" if name == "feeds" else name
        culprit = next((_culprit(f) for f in _functions_in(value) if not _pickles(f)), "")
        raise UserCodeError(
            f"{what}{culprit} cannot be pickled for the trial process ({type(error).__name__}: {error}): "
            "make the object inside the function, or run trials in the caller's process with "
            'runtime.isolation = "none"'
        ) from error


def _culprit(function: Any) -> str:
    """The function, what it uses of that cannot be pickled, and so on down to the object itself."""
    name = getattr(function, "__name__", "")
    text, seen = f" {name}" if name else "", [function]
    while callable(seen[-1]) or is_users(type(seen[-1])):
        found = ((n, v) for n, v in used_by(seen[-1]) if not _pickles(v) and all(v is not s for s in seen))
        variable, value = next(found, ("", None))
        if value is None:
            break
        text += f', which uses "{variable}" ({type(value).__module__}.{type(value).__qualname__})'
        seen.append(value)
    return text


def _pickles(value: Any) -> bool:
    try:
        cloudpickle.dumps(value)
    except Exception:
        return False
    return True
