"""The replica: named arrays and bytes in an anonymous memory file, one per node, mapped by every rank.

The file lives as long as a process holds it open: nothing is left behind after a kill of everything, and
no limit of a shared-memory file system applies. Layout: nonce, length of the index, end of what
`replica_shelf` has put behind the parts (0: nothing), index (JSON), then the parts, each aligned to 64 bytes.
Data, never code: nothing in it is unpickled. A file may hold several one after another, each at an offset
that can be mapped.
"""

import errno
import json
import mmap
import os
import pickle
import struct
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from disttune.quantize.freed_memory import give_back_pages
from disttune.runtime.scratch import scratch_place

NONCE_BYTES = 16
HEADER = struct.Struct(f"<{NONCE_BYTES}sQ")
END = struct.Struct("<Q")
END_OFFSET = HEADER.size
INDEX_OFFSET = END_OFFSET + END.size
ALIGNMENT = 64
MOST_AT_ONCE = 2**28


def create_memory_file() -> int:
    """Descriptor of an empty anonymous memory file; of a deleted file in scratch where there are none."""
    descriptor = _memory_file()
    if descriptor is not None:
        return descriptor
    with tempfile.TemporaryFile(prefix="disttune-replica-", dir=scratch_place()) as file:
        return os.dup(file.fileno())


def has_memory_files() -> bool:
    """Whether this machine lets us have anonymous memory files."""
    descriptor = _memory_file()
    if descriptor is None:
        return False
    os.close(descriptor)
    return True


def _memory_file() -> int | None:
    """None where the kernel is too old, or a sandbox refuses the call."""
    if not hasattr(os, "memfd_create"):
        return None
    try:
        return os.memfd_create("disttune-replica", os.MFD_CLOEXEC)
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EPERM, errno.EACCES):
            raise
        return None


def write_replica(descriptor: int, parts: Mapping[str, np.ndarray | bytes], offset: int = 0) -> bytes:
    """Write parts at the end of a memory file.

    Args:
        descriptor: of a file open for writing.
        parts: by name; arrays keep dtype and shape, bytes come back as uint8 of shape (n,).
        offset: where, a multiple of `mmap.ALLOCATIONGRANULARITY`; the file ends after the parts.
    Returns:
        The nonce that they begin with.
    """
    index: dict[str, dict[str, Any]] = {}
    position = 0
    arrays = {
        name: np.frombuffer(p, np.uint8) if isinstance(p, bytes) else np.asarray(p, order="C")
        for name, p in parts.items()
    }
    for name, array in arrays.items():
        index[name] = {"offset": position, "dtype": array.dtype.str, "shape": array.shape}
        position += -(-array.nbytes // ALIGNMENT) * ALIGNMENT
    text = json.dumps(index).encode()
    nonce = os.urandom(NONCE_BYTES)
    start = _payload_start(len(text))
    os.ftruncate(descriptor, offset + start + position)
    write_at(descriptor, text, offset + INDEX_OFFSET)
    for name, array in arrays.items():
        at = offset + start + index[name]["offset"]
        write_at(descriptor, array.reshape(-1).view(np.uint8).data, at)
        give_back_pages(array)
    write_at(descriptor, HEADER.pack(nonce, len(text)) + END.pack(0), offset)
    return nonce


class Replica:
    """Read-only view of a replica; arrays are views of the mapped file.

    Args:
        descriptor: of the memory file.
        offset: where in it.
        n_bytes: of it; to the end of its last part when 0.
    """

    def __init__(self, descriptor: int, offset: int = 0, n_bytes: int = 0):
        self.nonce, n_index = HEADER.unpack(os.pread(descriptor, HEADER.size, offset))
        self._index = json.loads(os.pread(descriptor, n_index, offset + INDEX_OFFSET))
        self._start = _payload_start(n_index)
        self.n_bytes = n_bytes or self._start + max(map(_part_end, self._index.values()), default=0)
        self._memory = mmap.mmap(descriptor, self.n_bytes, prot=mmap.PROT_READ, offset=offset)

    def names(self) -> list[str]:
        return list(self._index)

    def array(self, name: str) -> np.ndarray:
        """The part of this name, with dtype and shape as written, read-only and not copied."""
        entry = self._index[name]
        dtype = np.dtype(entry["dtype"])
        count = int(np.prod(entry["shape"], dtype=np.int64))
        flat = np.frombuffer(self._memory, dtype, count, self._start + entry["offset"])
        return flat.reshape(entry["shape"])

    def raw(self) -> pickle.PickleBuffer:
        """All but what is on the shelf, to be sent to another node without a copy here."""
        return pickle.PickleBuffer(self._memory)


def open_source(pid: int, descriptor: int, nonce: bytes, offset: int = 0) -> int | None:
    """Descriptor of another process's memory file on this node; None when it is not this node's."""
    path = Path("/proc") / str(pid) / "fd" / str(descriptor)
    try:
        if not path.is_file():  # on another node the number may be that of a pipe
            return None
        opened = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    if os.pread(opened, NONCE_BYTES, offset) == nonce:
        return opened
    os.close(opened)
    return None


def write_at(descriptor: int, data: bytes | memoryview, offset: int) -> None:
    """Write all of it; not through a mapping, where want of memory would be a signal and not an error."""
    view = memoryview(data)
    while len(view):
        n_written = os.pwrite(descriptor, view[:MOST_AT_ONCE], offset)
        view, offset = view[n_written:], offset + n_written


def copy_to_memory_file(data: Any) -> int:
    """A memory file with these bytes, for a node that received them."""
    descriptor = create_memory_file()
    append_bytes(descriptor, data, 0)
    return descriptor


def append_bytes(descriptor: int, data: Any, offset: int) -> None:
    """Write a replica that came from another node at the end of a memory file."""
    view = memoryview(data).cast("B")
    os.ftruncate(descriptor, offset + len(view))
    write_at(descriptor, view, offset)
    write_at(descriptor, END.pack(0), offset + END_OFFSET)  # what is on the shelf there has not come along


def _payload_start(n_index: int) -> int:
    return -(-(INDEX_OFFSET + n_index) // ALIGNMENT) * ALIGNMENT


def _part_end(entry: Mapping[str, Any]) -> int:
    """Where a part ends, from the first one's begin on."""
    n_bytes: int = np.dtype(entry["dtype"]).itemsize * int(np.prod(entry["shape"], dtype=np.int64))
    return int(entry["offset"]) + n_bytes
