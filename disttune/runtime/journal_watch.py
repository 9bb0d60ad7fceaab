"""Watches for a journal that the disk refuses: says so, and goes on in memory after a while."""

from collections.abc import Callable

from disttune.config.errors import DisttuneError
from disttune.runtime.journal_writer import Journal

PATIENCE_S = 30.0  # of refusals, after which results count that are in memory alone


class UnwrittenError(DisttuneError):
    """A job that was asked to end could not write all it knows: its last trials run again on resume."""

    exit_code = 75


class JournalWatch:
    """Looked after in the master's loop.

    Args:
        journal: tries again by itself.
        warn: tells the user.
        patience_s: how long results wait for the disk.
    """

    def __init__(self, journal: Journal, warn: Callable[[str], None], patience_s: float = PATIENCE_S):
        self._journal = journal
        self._warn = warn
        self._patience_s = patience_s
        self._failing_since_s: float | None = None

    def check(self, now_s: float, is_ending: bool) -> None:
        """Tell when the journal begins to fail, when memory has to do, and when it is written again.

        Args:
            now_s: on any clock.
            is_ending: whether the job was asked to end, so that waiting for room is over.
        Raises:
            UnwrittenError: it is ending.
        """
        failure = self._journal.failure
        if failure is None:
            if self._failing_since_s is not None:
                self._failing_since_s = None
                self._warn(f"{self._journal.path}: is written again")
            return
        what = f"{self._journal.path}: cannot be written: {failure.strerror or failure}"
        if is_ending:
            raise UnwrittenError(
                f"{what}, and the job was asked to end. Make room, then run the same command again to go on."
            )
        if self._failing_since_s is None:
            self._failing_since_s = now_s
            self._warn(
                f"{what}. A result counts only when it is on disk: make room; after {self._patience_s:g} s "
                "the job goes on in memory"
            )
        elif now_s - self._failing_since_s > self._patience_s and not self._journal.counts_memory:
            self._journal.count_memory()
            self._warn(
                f"{what} for {self._patience_s:g} s. THE JOB GOES ON IN MEMORY: what it finds from now on is "
                "lost if it is killed. Writing is tried again all the time: make room"
            )
