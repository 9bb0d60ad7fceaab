"""Where the samples of a tensor begin and end in the arrays that come in, and how to go through them.

Small arrays are worked on together, since each costs as much time as 10,000 values; large ones in portions
that stay in the processor's cache.
"""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from disttune.quantize.statistics.tally import PIECE, Values

Indices = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Samples:
    """One tensor's values over one feed.

    Args:
        values: any shape.
        n: samples in it: 1, or the size of the first dimension, each row being one.
    """

    values: NDArray[np.floating]
    n: int


@dataclass(frozen=True, slots=True)
class Portion:
    """A run of whole pieces, small enough to be worked on at a time.

    Args:
        values: of the joined arrays.
        pieces: of all pieces.
        starts: of the pieces, counted from the first of these values.
    """

    values: slice
    pieces: slice
    starts: Indices


@dataclass(frozen=True, slots=True)
class Layout:
    """Samples one after the other, each a row of pieces.

    A piece has `PIECE` values; the last one of a sample may be smaller.

    Args:
        n_samples: also those without values.
        filled: positions of the samples that have values.
        first_pieces: position of the first piece of each of these samples.
        n_pieces: of all samples.
        joined: which arrays to join, and the portions of what comes of it; in order.
    """

    n_samples: int
    filled: Indices
    first_pieces: Indices
    n_pieces: int
    joined: tuple[tuple[slice, tuple[Portion, ...]], ...]

    def portions(self, samples: Sequence[Samples]) -> Iterator[tuple[Portion, Values]]:
        """All values, portion by portion."""
        for parts, portions in self.joined:
            values = _flat(samples[parts])
            for portion in portions:
                yield portion, values[portion.values]


def layout_of(samples: Sequence[Samples]) -> Layout:
    """Of the samples of some feeds."""
    return _layout(tuple((part.values.size, part.n) for part in samples))


@functools.lru_cache(maxsize=256)  # many tensors have the same
def _layout(parts: tuple[tuple[int, int], ...]) -> Layout:
    """Layout of arrays, each with its number of values and of samples."""
    sizes = np.array([size // n for size, n in parts for _ in range(n)], np.intp)
    filled = np.flatnonzero(sizes)
    n_pieces = -(-sizes[filled] // PIECE)
    joined = []
    first_piece = 0
    for run in _runs([size for size, _ in parts]):
        rows = np.array([size // n for size, n in parts[run] for _ in range(n) if size], np.intp)
        portions = _portions(rows, first_piece)
        if portions:
            joined.append((run, portions))
            first_piece = portions[-1].pieces.stop
    return Layout(sizes.size, filled, np.cumsum(n_pieces) - n_pieces, int(n_pieces.sum()), tuple(joined))


def _runs(sizes: Sequence[int]) -> list[slice]:
    """Arrays that are joined: as many as fit into one portion."""
    runs = []
    start = n_values = 0
    for i, size in enumerate(sizes):
        if i > start and n_values + size > PIECE:
            runs.append(slice(start, i))
            start, n_values = i, 0
        n_values += size
    return [*runs, slice(start, len(sizes))]


def _portions(rows: Indices, first_piece: int) -> tuple[Portion, ...]:
    """Portions of rows of these sizes, one after the other; their pieces count from a number on."""
    starts = np.cumsum(rows) - rows
    n_pieces = -(-rows // PIECE)
    first_pieces = np.cumsum(n_pieces) - n_pieces
    within_row = np.arange(n_pieces.sum()) - np.repeat(first_pieces, n_pieces)
    bounds = np.append(np.repeat(starts, n_pieces) + within_row * PIECE, rows.sum())
    portions = []
    first = 0
    while first < within_row.size:
        last = int(np.searchsorted(bounds, bounds[first] + PIECE, side="right")) - 1
        start, stop = int(bounds[first]), int(bounds[last])
        pieces = slice(first_piece + first, first_piece + last)
        portions.append(Portion(slice(start, stop), pieces, bounds[first:last] - start))
        first = last
    return tuple(portions)


def _flat(samples: Sequence[Samples]) -> Values:
    parts = [part.values.reshape(-1) for part in samples]
    return (parts[0] if len(parts) == 1 else np.concatenate(parts)).astype(np.float32, copy=False)
