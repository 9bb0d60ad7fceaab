"""The shelf of a node: arrays behind the parts of its replica, appended by one trial process, read by all.

Rules:
1. A record is appended, and counts once the end that the header names lies behind it. What a process has
   written before it was killed is written over by the next.
2. Who appends holds a lock that the kernel takes back from a dead process. Who does not get it soon, or finds
   no room, keeps its arrays for itself: nobody ever waits for another.
3. Equal keys have equal arrays, so it does not matter who comes first.
"""

import contextlib
import fcntl
import json
import mmap
import os
import struct
import time
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np

from disttune.quantize.shelf import Arrays
from disttune.runtime.messages import OpenFile
from disttune.runtime.replica import ALIGNMENT, END, END_OFFSET, Replica, write_at

_KEY_BYTES = 64
_RECORD = struct.Struct(f"<{_KEY_BYTES}sQQ")  # key, length of the index, length of the record
_MOST = 2  # times the size of the replica's parts
_LOCK_WAIT_S = 2.0
_LOCK_RETRY_S = 0.002


class ReplicaShelf:
    """See `Shelf`.

    Args:
        descriptor: of the replica's memory file, open for reading and writing; closed with the shelf.
    """

    def __init__(self, descriptor: int):
        self._descriptor = descriptor
        self._close = weakref.finalize(self, os.close, descriptor)
        parts_end = Replica(descriptor).n_bytes
        self._start = _aligned(parts_end, mmap.PAGESIZE)
        self._limit = self._start + _MOST * parts_end
        self._seen = self._start
        self._places: dict[str, tuple[int, int, int]] = {}  # offset, length of the index, length

    @classmethod
    def open(cls, file: OpenFile) -> "ReplicaShelf | None":
        """The shelf of an agent's replica; None where this process may only read it."""
        try:
            path = f"/proc/{file.pid}/fd/{file.descriptor}"
            return cls(os.open(path, os.O_RDWR | os.O_CLOEXEC))
        except OSError:
            return None

    def find(self, key: str) -> Arrays | None:
        self._look()
        place = self._places.get(key)
        return None if place is None else self._read(*place)

    def keep(self, key: str, arrays: Arrays) -> Arrays:
        with contextlib.suppress(OSError), self._locked() as is_locked:
            found = self.find(key)
            if found is None and is_locked and self._append(key, arrays):
                found = self.find(key)
            return arrays if found is None else found
        return arrays

    def _look(self) -> None:
        """Take notice of records that were appended."""
        end = self._end()
        while self._seen < end:
            head = os.pread(self._descriptor, _RECORD.size, self._seen)
            key, n_index, length = _RECORD.unpack(head)
            self._places.setdefault(key.rstrip(b"\0").decode(), (self._seen, n_index, length))
            self._seen += _aligned(length, mmap.PAGESIZE)

    def _read(self, offset: int, n_index: int, length: int) -> Arrays:
        memory = mmap.mmap(self._descriptor, length, prot=mmap.PROT_READ, offset=offset)
        index = json.loads(memory[_RECORD.size : _RECORD.size + n_index])
        start = _aligned(_RECORD.size + n_index, ALIGNMENT)
        return {name: _view(memory, entry, start) for name, entry in index.items()}

    def _append(self, key: str, arrays: Arrays) -> bool:
        """Rule 1; the lock is held. Whether there is room."""
        index: dict[str, Any] = {}
        position = 0
        for name, array in arrays.items():
            index[name] = {"offset": position, "dtype": array.dtype.str, "shape": array.shape}
            position += _aligned(array.nbytes, ALIGNMENT)
        text = json.dumps(index).encode()
        start = _aligned(_RECORD.size + len(text), ALIGNMENT)
        length, offset = start + max(position, 1), max(self._end(), self._start)
        end = offset + _aligned(length, mmap.PAGESIZE)
        if end > self._limit:
            return False
        for name, array in arrays.items():
            flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
            write_at(self._descriptor, flat.data, offset + start + index[name]["offset"])
        write_at(self._descriptor, _RECORD.pack(key.encode(), len(text), length) + text, offset)
        if os.fstat(self._descriptor).st_size < end:
            os.ftruncate(self._descriptor, end)
        write_at(self._descriptor, END.pack(end), END_OFFSET)
        return True

    def _end(self) -> int:
        (end,) = END.unpack(os.pread(self._descriptor, END.size, END_OFFSET))
        return int(end)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[bool]:
        """Rule 2: the lock, or no lock after a while."""
        is_locked = self._lock()
        try:
            yield is_locked
        finally:
            if is_locked:
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def _lock(self) -> bool:
        deadline_s = time.monotonic() + _LOCK_WAIT_S
        while time.monotonic() < deadline_s:
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(_LOCK_RETRY_S)
            else:
                return True
        return False


def _view(memory: mmap.mmap, entry: dict[str, Any], start: int) -> np.ndarray:
    dtype = np.dtype(entry["dtype"])
    count = int(np.prod(entry["shape"], dtype=np.int64))
    flat = np.frombuffer(memory, dtype, count, start + entry["offset"])
    return flat.reshape(entry["shape"])


def _aligned(n_bytes: int, alignment: int) -> int:
    return -(-n_bytes // alignment) * alignment
