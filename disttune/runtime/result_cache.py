"""Results of works on disk, from one session of a job to the next: RUN/cache/work-KEY.npz.

A key is a digest over everything that a result depends on, so that a file needs no other check than its
checksums. Data, never code: nothing in it is unpickled. A thread writes, so that the master does not wait
for the disk; what it cannot write is solved again by a resume, and that is all.
"""

import queue
import re
import threading
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

FORMAT = 1  # of what is kept: a change of it makes older files unknown
MOST_BYTES = 2 * 2**30
MOST_WAITING_BYTES = 2**28
CLOSING_S = 10.0
_KEY = re.compile(r"[0-9a-f]+")
_PREFIX = "result/"  # a name of its own for each array, whatever np.savez calls its parameters
_DAMAGE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)


class ResultCache:
    """The results that rank 0 keeps on disk.

    Args:
        folder: of the run directory; made when first needed.
        most_bytes: that all results together may take; what comes later is not kept.
    """

    def __init__(self, folder: Path, most_bytes: int = MOST_BYTES):
        self._folder = folder
        self._most_bytes = most_bytes
        for path in folder.glob("work-*.writing"):  # of a session that was killed
            path.unlink(missing_ok=True)
        self._n_bytes = sum(path.stat().st_size for path in folder.glob("work-*.npz"))
        self._n_waiting_bytes = 0
        self._waiting: queue.SimpleQueue[tuple[str, dict[str, Any]] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._complaints: list[str] = []
        self._has_complained = False

    def has(self, key: str) -> bool:
        """Whether an earlier session has kept a result."""
        return _KEY.fullmatch(key) is not None and self._file(key).is_file()

    def load(self, key: str) -> dict[str, Any] | None:
        """A result, or None where the file is damaged, which is complained of once."""
        path = self._file(key)
        try:
            with np.load(path, allow_pickle=False) as file:
                return {name.removeprefix(_PREFIX): file[name] for name in file.files}
        except _DAMAGE as error:
            self._complain(f"{path} is damaged ({type(error).__name__}): what it held is done again")
            return None

    def keep(self, key: str, results: dict[str, Any]) -> None:
        """Have a result written soon, if there is room for it."""
        n_bytes = sum(np.asarray(array).nbytes for array in results.values())
        is_too_much = self._n_bytes + n_bytes > self._most_bytes
        if is_too_much or self._n_waiting_bytes > MOST_WAITING_BYTES or _KEY.fullmatch(key) is None:
            return
        self._n_bytes += n_bytes
        self._n_waiting_bytes += n_bytes
        self._waiting.put((key, results))
        if self._thread is None:
            self._thread = threading.Thread(target=self._write_all, name="disttune-results", daemon=True)
            self._thread.start()

    def take_complaints(self) -> list[str]:
        """What the user should read once, since the last call."""
        complaints, self._complaints = self._complaints, []
        return complaints

    def close(self) -> None:
        """Write what is waiting, for at most 10 s."""
        if self._thread is not None:
            self._waiting.put(None)
            self._thread.join(CLOSING_S)

    def _write_all(self) -> None:
        while (entry := self._waiting.get()) is not None:
            key, results = entry
            try:
                self._folder.mkdir(exist_ok=True)
                self._write(key, results)
            except OSError as error:
                self._complain(f"results of works are not kept for a resume: {error}")
            self._n_waiting_bytes -= sum(np.asarray(array).nbytes for array in results.values())

    def _write(self, key: str, results: dict[str, Any]) -> None:
        """The file is there whole or not at all, but for a loss of power, which its checksums show."""
        temporary = self._file(key).with_suffix(".writing")
        named: dict[str, Any] = {_PREFIX + name: array for name, array in results.items()}
        with temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, **named)
        temporary.replace(self._file(key))

    def _complain(self, text: str) -> None:
        if not self._has_complained:
            self._has_complained = True
            self._complaints.append(text)

    def _file(self, key: str) -> Path:
        return self._folder / f"work-{FORMAT}-{key}.npz"
