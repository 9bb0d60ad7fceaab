"""Inputs and targets in an `.npz` or `.npy` file, cut into feeds.

Layout of an `.npz`: an array named as an input of the model holds that input for all samples; one
named `labels`, `label`, `targets`, `target`, `y` or as an output of the model holds the targets. A
`.npy` holds the only input of a model, or the tokens of a language model.
"""

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from disttune.config.errors import DataError
from disttune.config.nearest import unknown_name
from disttune.evaluate.feed_checks import (
    Array,
    Feed,
    check_feed,
    check_no_nan,
    fixed_rows,
    n_rows,
    plain_array,
)
from disttune.evaluate.token_windows import TOKENS
from disttune.quantize.summary import InputSpec

TARGET_NAMES = ("labels", "label", "targets", "target", "y")
FEED_ROWS = 16


@dataclass(frozen=True)
class DataFile:
    """What a file holds, checked against the model's inputs.

    Args:
        feeds: consecutive rows of all inputs; all of `FEED_ROWS` rows but the last, or of as many as
            the model fixes; or one feed when the inputs differ in their first dimension.
        targets: for each feed the rows of the target; None when the file has none.
        target_name: name of that array, "" when there is none.
        warnings: conversions that were made.
    """

    feeds: tuple[Feed, ...]
    targets: tuple[Array, ...] | None
    target_name: str
    warnings: tuple[str, ...]


def read_data_file(
    path: Path, specs: Sequence[InputSpec], output_names: Sequence[str], where: str
) -> DataFile:
    """Read a file and cut it into feeds.

    Args:
        path: `.npz` or `.npy`.
        specs: the model's inputs.
        output_names: the model's outputs; an array may be named after one.
        where: key and value that name the file, for messages.
    Raises:
        DataError: missing, not such a file, pickled, or it does not fit the model.
    """
    arrays = _read_arrays(path, specs, where)
    inputs = {spec.name for spec in specs}
    names = [n for n in arrays if n not in inputs and (n in TARGET_NAMES or n in output_names)]
    for name in arrays:
        if name not in inputs and name not in names:
            valid = [*inputs, *output_names, *TARGET_NAMES]
            raise DataError(f"{where}: it is {unknown_name('input, output or target', name, valid)}")
    if len(names) > 1:
        raise DataError(f"{where}: several arrays could be the target: {', '.join(names)}; keep one")
    given = {name: array for name, array in arrays.items() if name in inputs}
    feed, warnings = check_feed(given, specs, where, any_rows=True)
    target = plain_array(arrays[names[0]], f'{where}, target "{names[0]}"') if names else None
    cuts = _cuts(feed, specs, where)
    if target is not None:
        _check_target(target, feed, f'{where}, target "{names[0]}"')
    return DataFile(
        feeds=tuple({name: array[cut] for name, array in feed.items()} for cut in cuts),
        targets=None if target is None else tuple(target[cut] for cut in cuts),
        target_name=names[0] if names else "",
        warnings=tuple(warnings),
    )


def _read_arrays(path: Path, specs: Sequence[InputSpec], where: str) -> dict[str, Array]:
    if not path.is_file():
        near = [p.name for p in path.parent.glob("*.np[yz]")]
        raise DataError(f"{where}: {path.parent} has {unknown_name('file', path.name, near)}")
    with path.open("rb") as file:
        start = file.read(6)
    if not start.startswith((b"PK", b"\x93NUMPY")):
        raise DataError(f"{where}: the file is no .npz or .npy; write it with numpy.savez")
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return _only_input(loaded, specs, where)
        with loaded:
            return {name: loaded[name] for name in loaded.files}
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile) as error:
        pickled = "allow_pickle" in str(error) or "Object arrays" in str(error)
        text = "holds pickled Python objects, which are not loaded" if pickled else f"cannot be read: {error}"
        raise DataError(f"{where}: the file {text}; save plain numeric arrays with numpy.savez") from None


def _only_input(array: Array, specs: Sequence[InputSpec], where: str) -> dict[str, Array]:
    tokens = [s.name for s in specs if s.name in TOKENS]
    if len(specs) != 1 and len(tokens) == 1 and array.ndim == 2 and array.dtype.kind in "iu":
        return {tokens[0]: array}
    if len(specs) != 1:
        names = ", ".join(s.name for s in specs)
        raise DataError(f"{where}: a .npy holds one input, the model has {len(specs)} ({names}); use an .npz")
    return {specs[0].name: array}


def _cuts(feed: Feed, specs: Sequence[InputSpec], where: str) -> list[slice]:
    rows, fixed = n_rows(feed), fixed_rows(specs)
    if rows is None:
        if any(feed[s.name].shape[:1] != (n,) for s in specs if (n := fixed_rows([s])) is not None):
            sizes = ", ".join(f'"{n}" {a.shape[0] if a.ndim else "none"}' for n, a in feed.items())
            raise DataError(f"{where}: the inputs must have the same number of rows; found {sizes}")
        return [slice(None)]
    step = fixed or FEED_ROWS
    if fixed and rows % fixed:
        raise DataError(
            f"{where}: found {rows} rows, but the model takes exactly {fixed} at a time: "
            f"remove the last {rows % fixed}"
        )
    return [slice(start, start + step) for start in range(0, rows, step)]


def _check_target(target: Array, feed: Feed, place: str) -> None:
    rows = n_rows(feed)
    if rows is not None and target.shape[:1] != (rows,):
        raise DataError(f"{place}: found shape {target.shape}, expected {rows} rows as the inputs have")
    check_no_nan(target, place)
