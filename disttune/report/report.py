"""What a report is: a listener that tells the result as well."""

from typing import Protocol

from disttune.runtime.listener import Listener
from disttune.runtime.result import TuningResult


class Report(Listener, Protocol):
    def finished(self, result: TuningResult, best_path: str) -> None:
        """The job has ended; its files are written."""
