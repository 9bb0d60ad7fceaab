"""Statistics of many tensors: merged, packed for other ranks, kept on disk.

Packed and on disk they are a few plain arrays:
- names: of the T tensors;
- facts: n, n_zero, n_excluded, exponent and n_samples of each, int64, shape (T, 5);
- extrema: minimum and maximum of each, float64, shape (T, 2);
- samples: minima and maxima of all samples, tensor after tensor, float64, shape (2, sum of n_samples);
- spans: of the linear bins from the first to the last that is not empty, where they begin and how many they
  are; the same of the counters by magnitude; int32, shape (T, 4);
- counts: of these spans, tensor after tensor, in the smallest unsigned type that holds them all.
A file has their digest as well.
"""

import hashlib
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from disttune.config.errors import InternalError, RunDirectoryError
from disttune.quantize.export import replaced_file
from disttune.quantize.statistics.histogram import N_BINS, N_COUNTERS, Counts
from disttune.quantize.statistics.tensor_statistics import TensorStatistics

Array = NDArray[Any]
_ARRAYS = ("names", "facts", "extrema", "samples", "spans", "counts")
_DIGEST_BYTES = 16
_DAMAGE = (OSError, EOFError, ValueError, KeyError, IndexError, zipfile.BadZipFile, zlib.error)


class Statistics(Mapping[str, TensorStatistics]):
    """Statistics by name of tensor.

    Args:
        tensors: in the order that everything made of them keeps.
    """

    def __init__(self, tensors: Mapping[str, TensorStatistics]):
        self._tensors = tensors if isinstance(tensors, _Packed) else dict(tensors)

    def __getitem__(self, name: str) -> TensorStatistics:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    @classmethod
    def merged(cls, parts: Sequence[Self]) -> Self:
        """Statistics of all samples together: byte for byte the same for any grouping of them.

        Args:
            parts: of the same tensors, in the order of their samples.
        Raises:
            InternalError: the parts are of different tensors.
        """
        names = list(parts[0]) if parts else []
        if any(list(part) != names for part in parts):
            raise InternalError("statistics of different tensors cannot be merged")
        return cls({name: TensorStatistics.merged([part[name] for part in parts]) for name in names})

    @property
    def digest(self) -> str:
        """32 hexadecimal digits over everything."""
        return _digest(self.to_arrays())

    def to_arrays(self) -> dict[str, Array]:
        """Everything as plain arrays by name, for `from_arrays` on another rank."""
        tensors = list(self._tensors.values())
        spans = [_span(counts) for t in tensors for counts in (t.counts, t.log_counts)]
        return {
            "names": np.array(list(self._tensors), dtype=np.str_),
            "facts": np.array(
                [(t.n, t.n_zero, t.n_excluded, t.exponent, t.n_samples) for t in tensors], np.int64
            ).reshape(-1, 5),
            "extrema": np.array([(t.minimum, t.maximum) for t in tensors], np.float64).reshape(-1, 2),
            "samples": np.stack(
                [_joined([t.sample_minima for t in tensors]), _joined([t.sample_maxima for t in tensors])]
            ),
            "spans": np.array([(first, part.size) for first, part in spans], np.int32).reshape(-1, 4),
            "counts": _smallest(np.concatenate([part for _, part in spans] or [np.zeros(0, np.int64)])),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array]) -> Self:
        """What `to_arrays` packed: the arrays are kept, and those of a tensor unpacked when asked for."""
        return cls(_Packed(arrays))

    def save(self, path: Path) -> None:
        """Write a file, or leave what is there.

        Raises:
            RunDirectoryError: it cannot be written: disk full, no permission ...
        """
        arrays = self.to_arrays()
        try:
            with replaced_file(path) as file:
                np.savez(file, allow_pickle=False, digest=np.array(_digest(arrays)), **arrays)
        except OSError as error:
            raise RunDirectoryError(
                f"{path}: statistics cannot be written: {error.strerror or error}. "
                "Make room or check permissions, then run the same command again."
            ) from error

    @classmethod
    def load(cls, path: Path) -> tuple[Self | None, str]:
        """Read what `save` wrote.

        Returns:
            The statistics and an empty text; or None and the reason, where there is no file or it is damaged.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in (*_ARRAYS, "digest")}
            if _digest({name: arrays[name] for name in _ARRAYS}) != str(arrays["digest"]):
                return None, f"{path}: damaged: its content does not have its digest"
            return cls.from_arrays(arrays), ""
        except FileNotFoundError:
            return None, f"{path}: there is no such file"
        except _DAMAGE as error:
            return None, f"{path}: damaged: {type(error).__name__}: {error}"


class _Packed(Mapping[str, TensorStatistics]):
    """Statistics in the form of `to_arrays`: a hundredth of their size, and often in shared memory."""

    def __init__(self, arrays: Mapping[str, Array]):
        names, facts, extrema, self._samples, spans, self._counts = (arrays[name] for name in _ARRAYS)
        self._positions = {str(name): i for i, name in enumerate(names)}
        # Lists: taking numbers out of arrays one by one takes longer than all that is done with them.
        self._facts, self._extrema, self._spans = facts.tolist(), extrema.tolist(), spans.tolist()
        self._count_ends = np.cumsum(spans[:, 1::2]).reshape(-1, 2).tolist()
        self._sample_ends = np.cumsum(facts[:, 4]).tolist()

    def __iter__(self) -> Iterator[str]:
        return iter(self._positions)

    def __len__(self) -> int:
        return len(self._positions)

    def __getitem__(self, name: str) -> TensorStatistics:
        i = self._positions[name]
        n, n_zero, n_excluded, exponent, n_samples = self._facts[i]
        minimum, maximum = self._extrema[i]
        minima, maxima = self._samples[:, self._sample_ends[i] - n_samples : self._sample_ends[i]]
        first, size, first_log, size_log = self._spans[i]
        end, end_log = self._count_ends[i]
        return TensorStatistics(
            n=n,
            n_zero=n_zero,
            n_excluded=n_excluded,
            minimum=minimum,
            maximum=maximum,
            sample_minima=minima,
            sample_maxima=maxima,
            exponent=exponent,
            counts=_unpacked(self._counts[end - size : end], first, N_BINS),
            log_counts=_unpacked(self._counts[end_log - size_log : end_log], first_log, N_COUNTERS),
        )


def _joined(parts: Sequence[Array]) -> Array:
    return np.concatenate(parts or [np.zeros(0)])


def _span(counts: Counts) -> tuple[int, Counts]:
    """Where the part begins that is not empty, and the part."""
    filled = counts != 0
    first, last = int(filled.argmax()), counts.size - int(filled[::-1].argmax())
    return (first, counts[first:last]) if filled[first] else (0, counts[:0])


def _unpacked(part: Array, first: int, size: int) -> Counts:
    counts = np.zeros(size, np.int64)
    counts[first : first + part.size] = part
    return counts


def _smallest(counts: Counts) -> Array:
    return counts.astype(np.min_scalar_type(counts.max(initial=0)))


def _digest(arrays: Mapping[str, Array]) -> str:
    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    for name in _ARRAYS:
        array = arrays[name]
        digest.update(f"{name}\0{array.dtype.str}\0{array.shape}\0".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
