"""Writes the journal: records are taken at once, and a thread puts them on disk in groups, one fsync each.

The format is in `journal`, which reads it.
"""

import contextlib
import os
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from disttune.config.errors import InternalError
from disttune.runtime.append_file import AppendFile
from disttune.runtime.journal import JournalContents, encode_line, read_journal
from disttune.runtime.records import Record

GROUP_S = 0.02  # a record waits at most this long before it is written
RETRY_S = 5.0  # between attempts while the disk refuses


class Journal:
    """Appends records; a thread writes them in groups, one fsync each.

    Nothing here raises for a full or failing disk: `failure` tells, the records stay in memory, and the
    thread tries again every few seconds.

    Args:
        path: made when missing; a torn last line is cut off.
        contents: what `read_journal` gave for it; None reads it here.
        group_s: least time between the starts of two groups, unless someone waits.
        retry_s: time between attempts while the disk refuses.
    Raises:
        JournalError: the file cannot be opened or trusted.
    """

    def __init__(
        self,
        path: Path,
        contents: JournalContents | None = None,
        *,
        group_s: float = GROUP_S,
        retry_s: float = RETRY_S,
    ):
        if contents is None:
            contents = read_journal(path) if path.exists() else JournalContents()
        self.path = path
        self.session = contents.n_sessions + 1
        self._group_s = group_s
        self._retry_s = retry_s
        self._file = AppendFile(path, contents.n_bytes)
        self._last = self._durable = contents.n_lines
        self._pending: list[bytes] = []
        self._failure: OSError | None = None
        self._counts_memory = False
        self._n_attempts = 0
        self._urgent = self._closing = self._ended = False
        lock = threading.Lock()
        self._work = threading.Condition(lock)  # wakes the writer
        self._progress = threading.Condition(lock)  # wakes those who wait
        self._bell = _Bell()
        self._thread = threading.Thread(target=self._write_groups, name="journal", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def durable(self) -> int:
        """Sequence number of the last record that counts: on disk, or in memory where that has to do."""
        return self._last if self.counts_memory else self._durable

    @property
    def counts_memory(self) -> bool:
        """Whether records count that are in memory alone."""
        return self._counts_memory and self._failure is not None

    def count_memory(self) -> None:
        """Let records count that are not on disk, until they are."""
        self._counts_memory = True

    @property
    def failure(self) -> OSError | None:
        """Why the last attempt to write failed; None when it did not."""
        return self._failure

    def append(self, record: Record) -> int:
        """Take a record; returns its sequence number, which is the number of its line. Does not wait.

        Raises:
            ValueError, TypeError: the record holds what JSON cannot.
            InternalError: the journal is closed.
        """
        with self._work:
            if self._closing:
                raise InternalError(f"{self.path}: a {record.kind} record came after the journal was closed")
            line = encode_line(self._last + 1, self.session, record)
            self._last += 1
            self._pending.append(line)
            if len(self._pending) == 1:
                self._work.notify()
            return self._last

    def wait(self, sequence: int, timeout_s: float | None = None) -> bool:
        """Wait until a record is on disk; False when an attempt to write it fails or time is up."""
        with self._work:
            if sequence > self._last:
                raise InternalError(f"{self.path}: record {sequence} is waited for; the last is {self._last}")
            if self._durable < sequence and not self._ended:
                n_attempts = self._n_attempts
                self._urgent = True
                self._work.notify()
                self._progress.wait_for(
                    lambda: (
                        self._durable >= sequence
                        or self._ended
                        or (self._failure is not None and self._n_attempts > n_attempts)
                    ),
                    timeout_s,
                )
            return self._durable >= sequence

    def flush(self) -> bool:
        """Wait for all records so far; whether all are on disk."""
        return self.wait(self._last)

    def fileno(self) -> int:
        """Descriptor that is readable when `durable` or `failure` has changed since `clear`."""
        return self._bell.fileno()

    def clear(self) -> None:
        """Make `fileno` unreadable; look at `durable` and `failure` afterwards, not before."""
        self._bell.clear()

    def close(self) -> bool:
        """Write what is left, once; whether all records are on disk. May be called again."""
        with self._work:
            first = not self._closing
            self._closing = self._urgent = True
            self._work.notify()
        self._thread.join()
        if first:
            self._file.close()
            self._bell.close()
        return self._durable == self._last

    def _write_groups(self) -> None:
        next_s = 0.0
        while group := self._next_group(next_s):
            started_s = time.monotonic()
            failure = self._file.append(b"".join(group))
            next_s = started_s + (self._group_s if failure is None else self._retry_s)
            if not self._settle(len(group), failure):
                break
        with self._work:
            self._ended = True
            self._progress.notify_all()

    def _next_group(self, not_before_s: float) -> list[bytes]:
        """All pending lines when their time has come; none once the journal is closed."""
        with self._work:
            self._work.wait_for(lambda: self._pending or self._closing)
            self._work.wait_for(lambda: self._urgent, timeout=max(0.0, not_before_s - time.monotonic()))
            self._urgent = self._closing
            return self._pending.copy()

    def _settle(self, n_lines: int, failure: OSError | None) -> bool:
        """Take note of an attempt; whether there may be another."""
        with self._work:
            self._n_attempts += 1
            self._failure = failure
            if failure is None:
                self._counts_memory = False
                del self._pending[:n_lines]
                self._durable += n_lines
            self._progress.notify_all()
            self._bell.ring()
            return failure is None or not self._closing


class _Bell:
    """A pipe that a `select` loop can sleep on."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)

    def fileno(self) -> int:
        return self._read

    def ring(self) -> None:
        with contextlib.suppress(BlockingIOError):  # full: it rings already
            os.write(self._write, b"\0")

    def clear(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while os.read(self._read, 4096):
                pass

    def close(self) -> None:
        os.close(self._read)
        os.close(self._write)
