"""The memory files that an agent holds open for its trial process and the other ranks of its node."""

import os
from typing import Any

from disttune.runtime.messages import OpenFile
from disttune.runtime.replica import (
    END,
    END_OFFSET,
    Replica,
    copy_to_memory_file,
    create_memory_file,
    open_source,
    write_at,
)


class ArrivingFile:
    """A memory file that comes from another node part by part."""

    def __init__(self) -> None:
        self.descriptor = create_memory_file()
        self._n_bytes = 0

    def add(self, data: Any) -> None:
        """Take the next part."""
        view = memoryview(data).cast("B")
        os.ftruncate(self.descriptor, self._n_bytes + len(view))
        write_at(self.descriptor, view, self._n_bytes)
        self._n_bytes += len(view)

    def finished(self) -> int:
        """The descriptor of the whole file."""
        write_at(self.descriptor, END.pack(0), END_OFFSET)  # what is on the shelf there has not come along
        return self.descriptor


class MemoryFiles:
    """Descriptors by name, for as long as the agent lives."""

    def __init__(self) -> None:
        self._descriptors: dict[str, int] = {}

    def new(self, name: str) -> OpenFile:
        """An empty file for the trial process to fill; it replaces an earlier one."""
        if name in self._descriptors:
            os.close(self._descriptors.pop(name))
        self._descriptors[name] = create_memory_file()
        return self.file(name)

    def file(self, name: str) -> OpenFile:
        """Where processes of this node can open it."""
        return OpenFile(os.getpid(), self._descriptors[name])

    def open(self, name: str, source: OpenFile, nonce: bytes) -> bool:
        """Open what another process holds; whether it is here now."""
        if name not in self._descriptors:
            descriptor = open_source(source.pid, source.descriptor, nonce)
            if descriptor is None:
                return False
            self._descriptors[name] = descriptor
        return True

    def keep(self, name: str, data: Any) -> None:
        """Hold bytes that came from another node."""
        self._descriptors[name] = copy_to_memory_file(data)

    def adopt(self, name: str, descriptor: int) -> None:
        """Hold a file that came from another node in parts."""
        self._descriptors[name] = descriptor

    def raw(self, name: str) -> Any:
        """The whole file."""
        return Replica(self._descriptors[name]).raw()

    def close(self) -> None:
        """Let go of all; the memory is free once no process maps it."""
        for descriptor in self._descriptors.values():
            os.close(descriptor)
        self._descriptors.clear()
