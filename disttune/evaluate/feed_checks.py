"""Checks of feeds against the model's inputs: each mistake is named with its place and mend."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from disttune.config.errors import DataError
from disttune.config.nearest import unknown_name
from disttune.evaluate.token_windows import with_what_belongs_to_tokens
from disttune.quantize.summary import InputSpec

Array = NDArray[Any]
Feed = dict[str, Array]


def check_feed(
    feed: object, specs: Sequence[InputSpec], where: str, first_sample: int = 0, any_rows: bool = False
) -> tuple[Feed, list[str]]:
    """Copy a feed into plain arrays of the model's types, in the order of its inputs.

    What belongs to windows of tokens is made where it is missing; integers are widened where nothing can be
    lost, and float64 becomes float32; all with a warning.
    Any other difference in type is an error.

    Args:
        feed: should be {input name: array}.
        specs: the model's inputs.
        where: source and feed, for messages.
        first_sample: number of samples before this feed, for messages.
        any_rows: whether a fixed first dimension is left unchecked (the feed is cut afterwards).
    Returns:
        The arrays, and warnings that name the input.
    Raises:
        DataError: the feed does not fit the model.
    """
    if not isinstance(feed, Mapping):
        raise DataError(
            f"{where}: found {_kind(feed)}, expected a dict {{input name: array}} with {_listed(specs)}; "
            "a pair (feeds, targets) is fine as well"
        )
    names = [spec.name for spec in specs]
    for name in feed:
        if name not in names:
            raise DataError(f"{where}: the model has {unknown_name('input', str(name), names)}")
    feed, made = with_what_belongs_to_tokens(feed, specs)
    missing = [name for name in names if name not in feed]
    if missing:
        raise DataError(f'{where}: input "{missing[0]}" is missing; expected {_listed(specs)}')
    arrays: Feed = {}
    warnings = [f"{where}: made for the windows of tokens: {', '.join(made)}"] if made else []
    for spec in specs:
        place = f'{where}, input "{spec.name}"'
        array = _cast(plain_array(feed[spec.name], place), spec, place, warnings)
        _check_shape(array, spec, place, any_rows)
        check_no_nan(array, place, first_sample)
        arrays[spec.name] = array
    _check_rows(arrays, specs, where)
    return arrays, warnings


def plain_array(value: object, place: str) -> Array:
    """A numpy array that holds numbers, booleans or text; a copy, for loaders may re-use their buffers."""
    try:
        array = np.array(value, order="C")
    except Exception as error:
        raise DataError(f"{place}: {_kind(value)} cannot be made an array: {error}") from None
    if array.dtype.hasobject:
        raise DataError(
            f"{place}: found an array of Python objects ({_kind(value)}), expected plain numbers of one shape"
        )
    return array


def check_no_nan(array: Array, place: str, first_sample: int = 0) -> None:
    """Raise `DataError` for the first NaN, with its sample."""
    if array.dtype.kind not in "fc" or not np.isnan(array).any():
        return
    if array.ndim == 0:
        raise DataError(f"{place}: NaN found; expected finite numbers, clean the data")
    row = int(np.argwhere(np.isnan(array))[0][0])
    raise DataError(
        f"{place}: NaN in row {row} (sample {first_sample + row}, counted from 0); expected finite numbers, "
        "clean the data"
    )


def n_rows(feed: Mapping[str, Array]) -> int | None:
    """Size of the first dimension when all inputs of a feed agree in it, else None."""
    sizes = {array.shape[0] if array.ndim else None for array in feed.values()}
    return sizes.pop() if len(sizes) == 1 else None


def shared_symbol(specs: Sequence[InputSpec]) -> str | None:
    """The symbol that is the first dimension of all inputs, or None."""
    firsts = {spec.shape[0] if spec.shape else None for spec in specs}
    first = firsts.pop() if len(firsts) == 1 else None
    return first if isinstance(first, str) else None


def fixed_rows(specs: Sequence[InputSpec]) -> int | None:
    """The largest first dimension that is fixed by the model, or None when feeds may be cut anywhere."""
    fixed = [rows for spec in specs if spec.shape and (rows := _fixed(spec.shape[0])) is not None]
    return max(fixed, default=None)


def _cast(array: Array, spec: InputSpec, place: str, warnings: list[str]) -> Array:
    found, wanted = array.dtype.name, spec.dtype
    if found == wanted:
        return array.astype(array.dtype.newbyteorder("="), copy=False)
    if array.dtype.kind == "U" and wanted == "object":
        return array
    widened = array.dtype.kind in "iu" and _is_integer(wanted) and np.can_cast(array.dtype, wanted, "safe")
    if not widened and (found, wanted) != ("float64", "float32"):
        raise DataError(f"{place}: found type {found}, expected {wanted}; convert with .astype({wanted!r})")
    warnings.append(f'input "{spec.name}": {found} is converted to the {wanted} of the model')
    with np.errstate(over="ignore"):
        converted = array.astype(wanted)
    if converted.dtype.kind == "f" and not np.array_equal(np.isinf(converted), np.isinf(array)):
        raise DataError(f"{place}: found numbers too large for {wanted}; scale the data")
    return converted


def _check_shape(array: Array, spec: InputSpec, place: str, any_rows: bool) -> None:
    text = f"found shape {_shape(array.shape)}, expected {_shape(spec.shape)}"
    if spec.shape and array.ndim != len(spec.shape):  # () may stand for an unknown rank
        raise DataError(f"{place}: {text}: {array.ndim} dimensions, not {len(spec.shape)}; reshape the data")
    for axis, (found, dimension) in enumerate(zip(array.shape, spec.shape, strict=False)):
        wanted = _fixed(dimension)
        if wanted not in (None, found) and not (axis == 0 and any_rows and found > 0):
            raise DataError(f"{place}: {text}: dimension {axis} is {found}, the model fixes it to {wanted}")
    if array.ndim and array.shape[0] == 0:
        raise DataError(f"{place}: {text}: it has no rows; leave empty feeds out")


def _check_rows(arrays: Feed, specs: Sequence[InputSpec], where: str) -> None:
    symbol = shared_symbol(specs)
    if symbol is None or n_rows(arrays) is not None:
        return
    sizes = ", ".join(f'"{name}" {array.shape[0]}' for name, array in arrays.items())
    raise DataError(f'{where}: the first dimension "{symbol}" must be the same for all inputs; found {sizes}')


def _fixed(dimension: int | str | None) -> int | None:
    """The size of a dimension where the model fixes it; some exporters write 0 or -1 for "any"."""
    return dimension if isinstance(dimension, int) and dimension > 0 else None


def _is_integer(dtype: str) -> bool:
    return dtype.removeprefix("u") in ("int8", "int16", "int32", "int64")


def _kind(value: object) -> str:
    return "None" if value is None else f"type {type(value).__name__}"


def _shape(shape: Sequence[object]) -> str:
    return "(" + ", ".join("?" if d is None else str(d) for d in shape) + ")"


def _listed(specs: Sequence[InputSpec]) -> str:
    return ", ".join(f'"{s.name}" {s.dtype} {_shape(s.shape)}' for s in specs)
