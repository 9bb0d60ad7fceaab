"""One thread for numpy's linear algebra, in a process that was not started with one.

Results of LAPACK on one and on two threads differ in the last bits. A trial process gets one by its
environment; with `runtime.isolation = "none"` the process is the user's.
"""

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = tuple(  # of OpenBLAS: numpy's own, with and without 64 bit integers, and a system's
    (f"{prefix}openblas_get_num_threads{suffix}", f"{prefix}openblas_set_num_threads{suffix}")
    for prefix in ("scipy_", "")
    for suffix in ("64_", "")
)
_Pair = tuple[Callable[[], int], Callable[[int], Any]]


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Hold every OpenBLAS of this process to one thread meanwhile; other libraries stay as they are."""
    before = [(set_, get()) for get, set_ in _loaded()]
    for set_, _ in before:
        set_(1)
    try:
        yield
    finally:
        for set_, n_threads in before:
            set_(n_threads)


def _loaded() -> list[_Pair]:
    """How many threads each may use: a function that tells and one that says."""
    try:
        maps = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return []
    paths = dict.fromkeys(line.split(maxsplit=5)[-1] for line in maps if "openblas" in line)
    return [pair for path in paths if (pair := _functions(path)) is not None]


def _functions(path: str) -> _Pair | None:
    try:
        library = ctypes.CDLL(path)
    except OSError:
        return None
    for get, set_ in NAMES:
        if hasattr(library, get) and hasattr(library, set_):
            return getattr(library, get), getattr(library, set_)
    return None
