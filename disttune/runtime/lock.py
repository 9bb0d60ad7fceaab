"""The lock of a run directory: one job writes it, and a job that died does not keep it.

Files in the run directory:

    lock                  the holder as JSON; its modification time is renewed while the holder lives
    lock.new-<token>      a taker's entry, before it gets one of the other two names
    lock.after-<token>    the right to put something in place of the holder with this token

1. No `lock`: whoever makes it first holds it.
2. A holder that may be taken over (`may_take_over`) is replaced only by the one taker that made
   `lock.after-<token of the holder>`. A token names one taking of the lock and never comes again, so
   that right is given once, however late another taker acts upon an old look at the directory.
3. A taker that died before it replaced the holder is succeeded by the same rule, with its own token.
4. The right counts only while `lock` still names that holder: this is looked at after getting it.

Needs no file locks of the system: network file systems often lack them or keep them to one node.
"""

import contextlib
import errno
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from disttune.config.errors import RunDirectoryError
from disttune.runtime.atomic_write import write_new
from disttune.runtime.lock_holder import (
    SILENCE_S,
    Holder,
    may_take_over,
    parse_holder,
    process_alive,
    this_process,
)

RENEW_S = 30.0  # how often the holder is to call `renew`
_ATTEMPTS = 50
_NO_HARD_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EXDEV)


class RunLock:
    """A held lock.

    The holder calls `renew` every `RENEW_S` seconds, and `release` at the end.
    """

    def __init__(self, directory: Path, holder: Holder):
        self.path = directory / "lock"
        self.holder = holder

    @classmethod
    def acquire(cls, directory: Path, holder: Holder | None = None) -> Self:
        """Take the lock of an existing directory, at once or not at all.

        Args:
            holder: default: the calling process.
        Raises:
            RunDirectoryError: another process holds it, or the directory cannot be written.
        """
        lock = cls(directory, holder or this_process())
        try:
            lock._acquire()
        except OSError as error:
            reason = error.strerror or str(error)
            raise RunDirectoryError(
                f"{directory}: the run directory cannot be locked: {reason}. "
                "Make it writable or give another run directory."
            ) from error
        return lock

    def renew(self) -> None:
        """Show that the holder lives. A lock file that was removed by hand is made again.

        Raises:
            RunDirectoryError: another process has taken the lock: this one must write nothing more.
        """
        try:
            entry = _read_entry(self.path)
            if entry is None:
                self._acquire()
            elif entry.holder.token == self.holder.token:
                os.utime(self.path)
            else:
                raise RunDirectoryError(
                    f"{self.path.parent}: {entry.holder} has taken over the run directory because this "
                    f"process ({self.holder.pid}) had been silent. This process ends; that one goes on."
                )
        except OSError as error:  # says nothing about who holds the lock, unless all is gone
            if isinstance(error, FileNotFoundError) and not self.path.parent.exists():
                raise RunDirectoryError(f"{self.path.parent}: the run directory was removed.") from error

    def release(self) -> None:
        """Remove the lock if it is still ours. May be called again."""
        with (
            contextlib.suppress(OSError, RunDirectoryError),
            self._entry(self.holder.with_new_token()) as new,
        ):
            right = self._right_to_follow(self.holder)
            if not _create(right, new.path):
                return  # somebody takes it over at this moment
            try:
                entry = _read_entry(self.path)
                if entry and entry.holder.token == self.holder.token:
                    self.path.unlink()
            finally:
                right.unlink(missing_ok=True)

    def _acquire(self) -> None:
        self.holder = self.holder.with_new_token()
        with self._entry(self.holder) as new:
            for _ in range(_ATTEMPTS):
                if self._attempt(new):
                    self._tidy(new.renewed_s)
                    return
        raise RunDirectoryError(
            f"{self.path.parent}: other jobs keep taking the lock of the run directory. "
            "Run one job in it, or give another run directory."
        )

    @contextlib.contextmanager
    def _entry(self, holder: Holder) -> Iterator["_Entry"]:
        """A new file that names the holder; gone at the end."""
        path = self.path.with_name(f"lock.new-{holder.token}")
        try:
            write_new(path, json.dumps(asdict(holder)).encode())
            yield _Entry(path, holder, path.stat().st_mtime)
        finally:
            path.unlink(missing_ok=True)

    def _attempt(self, new: "_Entry") -> bool:
        """Take the lock; False when something changed meanwhile: look again."""
        if _create(self.path, new.path):
            return True
        entry = _read_entry(self.path)
        if entry is None:
            return False
        if entry.holder == new.holder:
            return True  # made by us; the network file system lost the answer
        self._require_gone(entry, new)
        right = self._get_right(entry.holder, new)
        return right is not None and self._replace(entry.holder, right, new)

    def _get_right(self, holder: Holder, new: "_Entry") -> Path | None:
        """The right to replace a holder, past takers that died with it (rule 3); None: look again."""
        while True:
            right = self._right_to_follow(holder)
            if _create(right, new.path):
                return right
            rival = _read_entry(right)
            if rival is None:
                return None
            if rival.holder == new.holder:
                return right
            self._require_gone(rival, new)
            holder = rival.holder

    def _replace(self, holder: Holder, right: Path, new: "_Entry") -> bool:
        """Use the right, if the lock still names that holder (rule 4)."""
        try:
            entry = _read_entry(self.path)
            if entry is None or entry.holder != holder:
                return False
            new.path.replace(self.path)
            return True
        finally:
            right.unlink(missing_ok=True)

    def _right_to_follow(self, holder: Holder) -> Path:
        return self.path.with_name(f"lock.after-{holder.token}")

    def _require_gone(self, entry: "_Entry", new: "_Entry") -> None:
        holder, taker = entry.holder, new.holder
        silent_s = max(0.0, new.renewed_s - entry.renewed_s)
        alive = holder.same_machine(taker) and process_alive(holder.pid, holder.started_ticks)
        if may_take_over(holder, taker, alive=alive, silent_s=silent_s):
            return
        free = "" if alive else f" If it is gone, the directory is free in {SILENCE_S - silent_s:.0f} s."
        raise RunDirectoryError(
            f"{self.path.parent}: the run directory is in use by {holder}, last heard of {silent_s:.0f} s "
            f"ago. Wait for it or end it, or give another run directory.{free}"
        )

    def _tidy(self, now_s: float) -> None:
        """Remove what takers left that were killed. Rights to follow others than us are void (rule 4)."""
        ours = self._right_to_follow(self.holder)
        with contextlib.suppress(OSError):
            for path in self.path.parent.glob("lock.after-*"):
                if path != ours:
                    path.unlink(missing_ok=True)
            for path in self.path.parent.glob("lock.new-*"):
                if now_s - path.stat().st_mtime > SILENCE_S:
                    path.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class _Entry:
    """A file that names a holder.

    Args:
        renewed_s: when it was last renewed, by the file system's clock.
    """

    path: Path
    holder: Holder
    renewed_s: float


def _create(path: Path, source: Path) -> bool:
    """Make a file that must not exist, with the content of another; False when it exists."""
    try:
        path.hardlink_to(source)  # with its content from the first moment on
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
    else:
        return True
    try:
        write_new(path, source.read_bytes())
    except FileExistsError:
        return False
    return True


def _read_entry(path: Path) -> _Entry | None:
    """What a lock file says; None when there is none."""
    try:
        with path.open("rb") as file:
            renewed_s = os.fstat(file.fileno()).st_mtime
            holder = parse_holder(file.read(65536))
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno == errno.ESTALE:
            return None
        raise
    if holder is None:
        raise RunDirectoryError(
            f"{path}: this is no lock that disttune wrote. If no disttune job runs in this directory, "
            "remove the file; or give another run directory."
        )
    return _Entry(path, holder, renewed_s)
