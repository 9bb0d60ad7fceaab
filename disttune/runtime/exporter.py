"""Keeps `best.onnx` in step with the best trial: asks rank 0's trial process, one export at a time.

Improvements that come quickly one after the other would take longer to write than to find: after a quick
trial the file waits a second, and then holds the best of that time. The journal knows better in the meantime,
so that a job that is killed there loses nothing: the next session writes the file.
"""

import math
from collections.abc import Callable
from pathlib import Path

from disttune.runtime.messages import Export, Exported
from disttune.strategy.trial import Trial

QUICK_S = 1.0  # a trial that takes less is soon followed by the next


def is_quick(trial: Trial) -> bool:
    """Whether the export of a trial can wait: not for the whole of the next trial."""
    return trial.seconds < QUICK_S


def is_whole(path: Path, n_bytes: int | None) -> bool:
    """Whether a model's file is there as it was written.

    Nobody waits for the disk when it is written: a machine that loses power right afterwards may keep its
    name and not all of its bytes.

    Args:
        path: of the file.
        n_bytes: that it had; not known for None.
    """
    if not path.is_file():
        return False
    is_alone = not path.with_name(f"{path.name}.data").is_file()  # else the size tells of both
    return n_bytes is None or not is_alone or path.stat().st_size == n_bytes


class Exporter:
    """Wants the newest best trial in the file; several improvements in a row make one export.

    Args:
        path: of the file; None keeps none (simulation).
        held: digest of the candidate that the file holds already.
        ask: sends the request to rank 0.
    """

    def __init__(self, path: Path | None, held: str | None, ask: Callable[[Export], None]):
        self._path = path
        self._held = held
        self._ask = ask
        self._wanted: Trial | None = None
        self._under_way: Trial | None = None
        self._due_s = math.inf  # when what is wanted has to be asked for
        self.failure = ""  # why the file does not hold what is wanted

    def want(self, trial: Trial, now_s: float) -> None:
        self._wanted = trial
        self._due_s = min(self._due_s, now_s + (QUICK_S if is_quick(trial) else 0.0))
        self.failure = ""

    @property
    def settled(self) -> bool:
        """Whether the file holds what is wanted, or cannot."""
        if self._wanted is None or self._path is None or self.failure:
            return True
        return self._under_way is None and self._wanted.candidate.digest == self._held

    def start(self, now_s: float) -> None:
        """Ask for an export when one is due and none is under way."""
        if now_s < self._due_s or self.settled or self._under_way is not None or self._wanted is None:
            return
        self._due_s = math.inf
        self._under_way = self._wanted
        self._send(self._wanted)

    def fall_back(self, path: Path | None) -> bool:
        """Write what is wanted to a second place; False when there is none, or it was tried already."""
        if path is None or path == self._path:
            return False
        self._path, self.failure, self._due_s = path, "", 0.0
        return True

    def again(self) -> None:
        """Ask once more for what is under way: its works are done."""
        if self._under_way is not None:
            self._send(self._under_way)

    def give_up(self) -> None:
        """Leave the file as it is: the next session of the job exports."""
        self._wanted = self._under_way = None

    def done(self, message: Exported) -> Trial:
        """The file is written; returns the trial it holds."""
        trial = self._under_way
        assert trial is not None
        assert trial.number == message.trial
        self._under_way = None
        self._held = trial.candidate.digest
        return trial

    def failed(self, why: str) -> None:
        """It cannot be written: leave it at that until there is a better one."""
        if self._under_way is self._wanted:
            self.failure = why
        self._under_way = None

    def _send(self, trial: Trial) -> None:
        self._ask(Export(trial.number, trial.candidate, str(self._path)))
