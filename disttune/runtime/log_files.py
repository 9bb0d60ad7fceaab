"""Logs of the ranks, `logs/rank-N.log`: what their trial processes wrote, up to a size."""

from collections.abc import Callable
from pathlib import Path

LIMIT_BYTES = 16 * 2**20


class LogFiles:
    """Appends to one file for each rank. A log that cannot be written never ends a job.

    Args:
        directory: gives where they are; made with the first text.
        limit_bytes: of one file; what comes later is dropped, and one line says so.
    """

    def __init__(self, directory: Callable[[], Path], limit_bytes: int = LIMIT_BYTES):
        self.failure: OSError | None = None  # the latest
        self._directory = directory
        self._limit_bytes = limit_bytes

    def append(self, rank: int, text: str) -> None:
        """Append text as it is to the rank's log."""
        try:
            self._append(self.path(rank), text.encode(errors="backslashreplace"))
        except OSError as error:
            self.failure = error

    def path(self, rank: int) -> Path:
        return self._directory() / f"rank-{rank}.log"

    def _append(self, path: Path, data: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            room = self._limit_bytes - file.tell()
            if room >= len(data):
                file.write(data)
            elif room >= 0:  # the notice brings the file past the limit, so it is written once
                kept = data[:room].decode(errors="ignore").encode()
                file.write(kept + self._notice())

    def _notice(self) -> bytes:
        return f"\n[log cut: it has reached {self._limit_bytes} bytes; what follows is dropped]\n".encode()
