"""Watches for a journal that the disk refuses: says so once, waits for room, gives up in the end."""

from collections.abc import Callable

from disttune.config.errors import DisttuneError, JournalError
from disttune.runtime.journal import Journal

PATIENCE_S = 300.0


class UnwrittenError(DisttuneError):
    """A job that was asked to end could not write all it knows: its last trials run again on resume."""

    exit_code = 75


class JournalWatch:
    """Looked after in the master's loop.

    Args:
        journal: tries again by itself.
        warn: tells the user.
    """

    def __init__(self, journal: Journal, warn: Callable[[str], None]):
        self._journal = journal
        self._warn = warn
        self._failing_since_s: float | None = None

    def check(self, now_s: float, is_ending: bool) -> None:
        """Tell when the journal begins to fail and when it is written again.

        Args:
            now_s: on any clock.
            is_ending: whether the job was asked to end, so that waiting for room is over.
        Raises:
            UnwrittenError: it is ending.
            JournalError: it has failed for `PATIENCE_S`.
        """
        failure = self._journal.failure
        if failure is None:
            if self._failing_since_s is not None:
                self._failing_since_s = None
                self._warn(f"{self._journal.path}: is written again")
            return
        what = f"cannot be written: {failure.strerror or failure}"
        if is_ending:
            raise UnwrittenError(
                f"{self._journal.path}: {what}, and the job was asked to end. Make room, then run the same "
                "command again to go on."
            )
        if self._failing_since_s is None:
            self._failing_since_s = now_s
            self._warn(
                f"{self._journal.path}: {what}. A result counts only when it is on disk: make room, and the "
                f"job goes on; without, it ends in {PATIENCE_S:g} s"
            )
        elif now_s - self._failing_since_s > PATIENCE_S:
            raise JournalError(
                f"{self._journal.path}: {what}. Make room, then run the same command again to go on."
            )
