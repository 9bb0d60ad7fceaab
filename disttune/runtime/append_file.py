"""A file that grows by whole pieces: each is on disk entirely, or the next attempt starts over.

It is cut back to the last good end before an attempt that follows a failed one.
"""

import contextlib
import errno
import os
from pathlib import Path

from disttune.config.errors import JournalError
from disttune.runtime.atomic_write import sync_directory


class AppendFile:
    """A file and the end of what is surely on disk.

    Args:
        path: made when missing.
        n_bytes: what is behind is cut off.
    Raises:
        JournalError: the file cannot be opened, or is shorter than that.
    """

    def __init__(self, path: Path, n_bytes: int):
        self._path = path
        self._end = n_bytes
        self._dirty = False
        try:
            is_new = not path.exists()
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            status = os.fstat(self._descriptor)
            self._has_links = status.st_nlink > 0  # some file systems do not count them
            self._cut(status.st_size)
            if is_new:
                sync_directory(path.parent)
        except OSError as error:
            reason = error.strerror or str(error)
            raise JournalError(f"{path}: the journal cannot be written: {reason}.") from error

    def _cut(self, size: int) -> None:
        """Cut off what stands behind the given end."""
        if size < self._end:
            raise JournalError(
                f"{self._path}: the journal has become shorter since it was read ({size} bytes, were "
                f"{self._end}). Does another program write it? Run the same command again."
            )
        if size > self._end:
            os.ftruncate(self._descriptor, self._end)
            os.fsync(self._descriptor)

    def append(self, data: bytes) -> OSError | None:
        """Write and fsync, all or nothing; why it failed, or None."""
        try:
            self._write(data)
        except OSError as error:
            return error
        except Exception as error:  # a writer that dies would let everyone wait for ever
            return OSError(errno.EIO, f"{type(error).__name__}: {error}")
        return None

    def _write(self, data: bytes) -> None:
        if self._dirty:  # after a failed fsync the kernel may have dropped the pages: write all again
            os.ftruncate(self._descriptor, self._end)
        self._dirty = True
        view, offset = memoryview(data), self._end
        while view:
            n_written = os.pwrite(self._descriptor, view, offset)
            view, offset = view[n_written:], offset + n_written
        os.fsync(self._descriptor)
        if self._has_links and os.fstat(self._descriptor).st_nlink == 0:
            raise FileNotFoundError(errno.ENOENT, "removed or replaced while the job runs", str(self._path))
        self._end, self._dirty = offset, False

    def close(self) -> None:
        with contextlib.suppress(OSError):  # what counts has been fsynced
            os.close(self._descriptor)
