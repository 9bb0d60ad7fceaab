"""Calibration data: the first samples of a loader or file, read once, checked and digested.

A sample is one row of axis 0, or one feed where there is no batch axis. There is a batch axis when
1. the first dimension of all inputs of the model is the same symbol, or
2. in every feed that was read, all inputs have the same first dimension.
The last feed is cut to reach the number of samples, unless the model fixes its first dimension: then
it is kept whole.
"""

import hashlib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from disttune.config.errors import DataError
from disttune.evaluate.data_file import read_data_file
from disttune.evaluate.feed_checks import (
    Array,
    Feed,
    check_feed,
    check_no_nan,
    fixed_rows,
    n_rows,
    plain_array,
    shared_symbol,
)
from disttune.evaluate.user_code import (
    check_callable,
    code_file,
    describe_exception,
    load_function,
    shown_path,
    source_file,
)
from disttune.quantize.summary import InputSpec

FeedSource = str | Path | Callable[[], Iterable[Any]] | Iterable[Any] | Any


@dataclass(frozen=True)
class Feeds:
    """The calibration samples of a job.

    Args:
        feeds: one dict of arrays for each run of the model.
        targets: one array for each feed, or None.
        n_samples: number of samples in all feeds.
        batched: whether a sample is a row (else a feed is one sample).
        cuttable: whether the model takes any number of rows.
        warnings: what was converted or came short, one sentence each.
    """

    feeds: tuple[Feed, ...]
    targets: tuple[Array, ...] | None
    n_samples: int
    batched: bool = True
    cuttable: bool = True
    warnings: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """32 hexadecimal digits over names, types, shapes and bytes of all feeds and targets."""
        digest = hashlib.blake2b(digest_size=16)
        for name, array in self._named_arrays():
            digest.update(f"{name}\0{array.dtype.str}\0{array.shape}\0".encode())
            digest.update(np.ascontiguousarray(array).data if array.size else b"")
        return digest.hexdigest()

    def head(self, samples: int) -> Self:
        """The first samples alone, as if no more had been asked for."""
        feeds, count = _take(self.feeds, samples, self.batched, self.cuttable)
        targets = None if self.targets is None else self.targets[: len(feeds)]
        if targets and self.batched:
            targets = tuple(t[: n_rows(f)] for t, f in zip(targets, feeds, strict=True))
        return type(self)(feeds, targets, count, self.batched, self.cuttable, self.warnings)

    def to_arrays(self) -> dict[str, Array]:
        """Everything as plain arrays by name, for `from_arrays` on another rank."""
        arrays = dict(self._named_arrays())
        arrays["facts"] = np.array([self.n_samples, self.batched, self.cuttable, self.targets is not None])
        arrays["warnings"] = np.array(self.warnings, dtype=np.str_)
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array]) -> Self:
        """The feeds that `to_arrays` packed."""
        feeds: dict[int, Feed] = {}
        targets: dict[int, Array] = {}
        for key, array in arrays.items():
            kind, _, rest = key.partition("/")
            index, _, name = rest.partition("/")
            if kind == "feed":
                feeds.setdefault(int(index), {})[name] = array
            elif kind == "target":
                targets[int(index)] = array
        n_samples, batched, cuttable, has_targets = (int(n) for n in arrays["facts"])
        return cls(
            feeds=tuple(feeds[i] for i in sorted(feeds)),
            targets=tuple(targets[i] for i in sorted(targets)) if has_targets else None,
            n_samples=n_samples,
            batched=bool(batched),
            cuttable=bool(cuttable),
            warnings=tuple(str(w) for w in arrays["warnings"]),
        )

    def _named_arrays(self) -> Iterator[tuple[str, Array]]:
        for i, feed in enumerate(self.feeds):
            for name in sorted(feed):
                yield f"feed/{i}/{name}", feed[name]
        for i, target in enumerate(self.targets or ()):
            yield f"target/{i}", target


def load_feeds(
    source: FeedSource,
    folder: Path,
    input_specs: Sequence[InputSpec],
    samples: int,
    output_names: Sequence[str] = (),
    where: str = "calibration",
) -> Feeds:
    """Read the first samples of calibration data.

    Args:
        source: "file.py:function" or a function without arguments, returning or yielding feeds; an
            iterable of feeds; a reader with `get_next()` as onnxruntime has them; or an `.npz` or
            `.npy` file. A feed is {input name: array} or a pair of that and the targets.
        folder: relative paths are looked up here.
        input_specs: the model's inputs.
        samples: how many to read, > 0.
        output_names: the model's outputs: an `.npz` may name its targets so.
        where: section of the job file, for messages.
    Raises:
        DataError: there are no data, or a feed does not fit the model; names source, feed and input.
        UserCodeError: the loader cannot be imported or takes arguments.
    """
    if isinstance(source, Path) or (isinstance(source, str) and source.endswith((".npz", ".npy"))):
        path = folder / source
        place = f'{where}.data = "{shown_path(path, folder)}"'
        return _from_file(path, input_specs, samples, output_names, place)
    if isinstance(source, str):
        loader = load_function(source, folder, n_arguments=0, where=f"{where}.loader")
        file = code_file(source, folder)
        place = f'{where}.loader = "{shown_path(file, folder)}:{source.rpartition(":")[2]}"'
        return _from_loader(loader, input_specs, samples, place, file)
    if not callable(source) or (hasattr(source, "get_next") and not isinstance(source, type)):
        return _read(source, input_specs, samples, f"{where} reader {type(source).__name__}", None)
    name = getattr(source, "__name__", type(source).__name__)
    check_callable(source, 0, f"{where} loader {name}")
    return _from_loader(source, input_specs, samples, f"{where} loader {name}", source_file(source))


def _from_file(
    path: Path, specs: Sequence[InputSpec], samples: int, output_names: Sequence[str], where: str
) -> Feeds:
    data = read_data_file(path, specs, output_names, where)
    batched = shared_symbol(specs) is not None or all(n_rows(f) is not None for f in data.feeds)
    cuttable = fixed_rows(specs) is None
    count = sum(n_rows(f) or 1 for f in data.feeds) if batched else len(data.feeds)
    feeds = Feeds(data.feeds, data.targets, count, batched, cuttable, data.warnings)
    return _owned(feeds.head(samples), samples, where)


def _from_loader(
    loader: Callable[[], Any], specs: Sequence[InputSpec], samples: int, where: str, file: Path | None
) -> Feeds:
    try:
        items = loader()
    except (Exception, SystemExit) as error:
        raise DataError(f"{where}: it raised {describe_exception(error, file)}") from error
    if items is None:
        raise DataError(f"{where}: it returned None; it must yield feeds, or return a list of them")
    return _read(items, specs, samples, where, file)


def _read(items: Any, specs: Sequence[InputSpec], samples: int, where: str, file: Path | None) -> Feeds:
    feeds: list[Feed] = []
    targets: list[Array] = []
    warnings: list[str] = []
    batched, cuttable, count = True, fixed_rows(specs) is None, 0
    for index, item in _items(items, where, file):
        place = f"{where}, feed {index}"
        raw, target = item if _is_pair(item) else (item, None)
        feed, converted = check_feed(raw, specs, place, first_sample=count)
        batched = batched and n_rows(feed) is not None
        feeds.append(feed)
        warnings += converted
        if target is not None:
            targets.append(_checked_target(target, feed if batched else None, f"{place}, targets", count))
        if targets and len(targets) != len(feeds):
            raise DataError(f"{place}: some feeds come with targets and some without; give all or none")
        count = count + (n_rows(feed) or 1) if batched else len(feeds)
        if count >= samples:
            break
    if not feeds:
        raise DataError(f"{where}: it gave no feed; at least one is needed")
    said = tuple(dict.fromkeys(warnings))
    read = Feeds(tuple(feeds), tuple(targets) or None, count, batched, cuttable, said)
    return _owned(read.head(samples), samples, where)


def _items(items: Any, where: str, file: Path | None) -> Iterator[tuple[int, Any]]:
    """Numbered items; whatever the user's code raises becomes a `DataError`."""
    if hasattr(items, "get_next"):
        iterator = iter(items.get_next, None)
    elif isinstance(items, Mapping | str | bytes) or not hasattr(items, "__iter__"):
        raise DataError(
            f"{where}: found type {type(items).__name__}, expected feeds to iterate over; "
            "yield each feed, or return a list of feeds"
        )
    else:
        iterator = iter(items)
    index = 0
    try:
        while True:
            try:
                item = next(iterator)
            except StopIteration:
                return
            except (Exception, SystemExit) as error:
                text = describe_exception(error, file)
                raise DataError(f"{where}: it raised {text} instead of giving feed {index}") from error
            yield index, item
            index += 1
    finally:
        if isinstance(iterator, Generator):  # now, not when it is collected: it may hold files open
            iterator.close()


def _is_pair(item: Any) -> bool:
    return isinstance(item, tuple | list) and len(item) == 2 and isinstance(item[0], Mapping)


def _checked_target(target: Any, feed: Feed | None, place: str, first_sample: int) -> Array:
    array = plain_array(target, place)
    rows = n_rows(feed) if feed else None
    if rows is not None and array.shape[:1] != (rows,):
        raise DataError(f"{place}: found shape {array.shape}, expected {rows} rows as the inputs have")
    check_no_nan(array, place, first_sample)
    return array


def _take(feeds: Sequence[Feed], samples: int, batched: bool, cuttable: bool) -> tuple[tuple[Feed, ...], int]:
    """The least run of feeds with so many samples, and how many it has."""
    taken: list[Feed] = []
    count = 0
    for feed in feeds:
        if count >= samples:
            break
        rows = (n_rows(feed) or 1) if batched else 1
        if count + rows > samples and cuttable:
            rows = samples - count
            feed = {name: array[:rows] for name, array in feed.items()}
        taken.append(feed)
        count += rows
    return tuple(taken), count


def _owned(feeds: Feeds, samples: int, where: str) -> Feeds:
    """Without the rows that were cut off in memory, and with a warning when samples are missing."""
    warnings = feeds.warnings
    if feeds.n_samples < samples:
        warnings += (f"{where}: {feeds.n_samples} samples, {samples} were asked for",)
    if feeds.n_samples > samples:
        warnings += (f"{where}: {feeds.n_samples} samples instead of {samples}: the model fixes its batch",)
    copied = tuple({name: np.array(array) for name, array in feed.items()} for feed in feeds.feeds)
    targets = None if feeds.targets is None else tuple(np.array(t) for t in feeds.targets)
    return Feeds(copied, targets, feeds.n_samples, feeds.batched, feeds.cuttable, warnings)
