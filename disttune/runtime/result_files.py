"""The results of works that an agent holds for its trial process and the other ranks of its node.

One memory file grows with every result that is kept here; files of other agents of the node are opened
once. A result is a window of such a file, so that thousands of them need no more descriptors than one.
"""

import mmap
import os
from dataclasses import replace
from typing import Any

from disttune.runtime.messages import OpenFile
from disttune.runtime.replica import (
    NONCE_BYTES,
    Replica,
    append_bytes,
    create_memory_file,
    open_source,
    write_replica,
)


class ResultFiles:
    """Windows by the key of their work, for as long as the agent lives."""

    def __init__(self) -> None:
        self._own: int | None = None
        self._opened: dict[tuple[int, int], int] = {}  # our descriptor by process and its descriptor
        self._windows: dict[str, OpenFile] = {}

    def __contains__(self, key: str) -> bool:
        return key in self._windows

    def keep(self, key: str, results: dict[str, Any]) -> bytes:
        """Write a result; returns its nonce."""
        descriptor, offset = self._end()
        nonce = write_replica(descriptor, results, offset)
        self._add(key, descriptor, offset)
        return nonce

    def keep_bytes(self, key: str, data: Any) -> None:
        """Hold a result that came from another node."""
        descriptor, offset = self._end()
        append_bytes(descriptor, data, offset)
        self._add(key, descriptor, offset)

    def open(self, key: str, source: OpenFile, nonce: bytes) -> bool:
        """Open what another process holds; whether it is here now."""
        if key in self._windows:
            return True
        place = (source.pid, source.descriptor)
        if place not in self._opened:
            opened = open_source(*place, nonce, source.offset)
            if opened is None:
                return False
            self._opened[place] = opened
        descriptor = self._opened[place]
        if os.pread(descriptor, NONCE_BYTES, source.offset) != nonce:
            return False
        self._windows[key] = replace(source, pid=os.getpid(), descriptor=descriptor)
        return True

    def file(self, key: str) -> OpenFile:
        """Where processes of this node can open it."""
        return self._windows[key]

    def raw(self, key: str) -> Any:
        """The whole window."""
        window = self._windows[key]
        return Replica(window.descriptor, window.offset, window.n_bytes).raw()

    def close(self) -> None:
        """Let go of all."""
        for descriptor in self._opened.values():
            os.close(descriptor)
        if self._own is not None:
            os.close(self._own)
        self._own, self._opened, self._windows = None, {}, {}

    def _end(self) -> tuple[int, int]:
        """Our file and where the next result goes."""
        if self._own is None:
            self._own = create_memory_file()
        size, step = os.fstat(self._own).st_size, mmap.ALLOCATIONGRANULARITY
        return self._own, -(-size // step) * step

    def _add(self, key: str, descriptor: int, offset: int) -> None:
        n_bytes = os.fstat(descriptor).st_size - offset
        self._windows[key] = OpenFile(os.getpid(), descriptor, offset, n_bytes)
