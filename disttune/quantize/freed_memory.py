"""Giving memory that is not used any more back to the system: freed blocks, and pages of mapped files."""

import ctypes
import mmap
from typing import Any

import numpy as np
from numpy.typing import NDArray

_malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # other C libraries do without


def give_back_freed() -> None:
    """Return blocks that were freed between others that are in use; takes milliseconds."""
    if _malloc_trim is not None:
        _malloc_trim(0)


def give_back_pages(values: NDArray[Any]) -> None:
    """Drop this process's pages of a mapped file behind an array; they come back when they are read.

    An array that is no view of a mapped file is left alone.
    """
    base: Any = values
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, memoryview):
        base = base.obj
    if isinstance(base, mmap.mmap):
        begin = values.ctypes.data - np.frombuffer(base, np.uint8).ctypes.data
        aligned = begin // mmap.PAGESIZE * mmap.PAGESIZE
        base.madvise(mmap.MADV_DONTNEED, aligned, begin - aligned + values.nbytes)
