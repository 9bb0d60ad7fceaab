"""Keeps `best.onnx` in step with the best trial: asks rank 0's trial process, one export at a time."""

from collections.abc import Callable
from pathlib import Path

from disttune.runtime.messages import Export, Exported
from disttune.strategy.trial import Trial


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
        self.failure = ""  # why the file does not hold what is wanted

    def want(self, trial: Trial) -> None:
        self._wanted = trial
        self.failure = ""

    @property
    def settled(self) -> bool:
        """Whether the file holds what is wanted, or cannot."""
        if self._wanted is None or self._path is None or self.failure:
            return True
        return self._under_way is None and self._wanted.candidate.digest == self._held

    def start(self) -> None:
        """Ask for an export when one is wanted and none is under way."""
        if self.settled or self._under_way is not None or self._wanted is None:
            return
        self._under_way = self._wanted
        self._send(self._wanted)

    def fall_back(self, path: Path | None) -> bool:
        """Write what is wanted to a second place; False when there is none, or it was tried already."""
        if path is None or path == self._path:
            return False
        self._path, self.failure = path, ""
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
