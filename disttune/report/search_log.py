"""auto_search.log: a plain line with its time for each thing that happens, beside another report.

A resumed job goes on with the file.
"""

import time
from collections.abc import Callable
from pathlib import Path

from disttune.report import wording
from disttune.report.report import Report
from disttune.runtime.listener import Opening
from disttune.runtime.result import TuningResult
from disttune.strategy.trial import Trial


class SearchLog:
    """Writes the log and passes everything on.

    Args:
        report: is told the same.
        path: gives that of the log; its folder is there when the search begins. Where it cannot be written,
            that is told once.
    """

    def __init__(self, report: Report, path: Callable[[], Path]):
        self._report = report
        self._path = path
        self._opened = self._failed = False
        self._best: int | None = None

    def phase(self, text: str) -> None:
        self._write(text)
        self._report.phase(text)

    def opened(self, opening: Opening) -> None:
        self._opened = True
        begun = f"auto search of {opening.run_directory}, {opening.n_ranks} rank(s)"
        resumed = f", {opening.n_resumed} trials already measured" if opening.n_resumed else ""
        self._write(f"{begun}, at most {opening.max_trials} trials{resumed}; {wording.goal(opening.goal)}")
        self._report.opened(opening)

    def stage_opened(self, name: str) -> None:
        self._write(f"stage: {name}")
        self._report.stage_opened(name)

    def committed(self, trial: Trial, best: Trial | None) -> None:
        self._write(
            f"trial {trial.number}: {wording.outcome(trial)}, {trial.seconds:.3f} s; {trial.candidate}"
        )
        if best is not None and best.number != self._best:
            self._best = best.number
            self._write(f"the best so far: trial {best.number}")
        self._report.committed(trial, best)

    def progress(self, n_committed: int, n_running: int, elapsed_s: float) -> None:
        self._report.progress(n_committed, n_running, elapsed_s)

    def noted(self, text: str) -> None:
        self._write(text)
        self._report.noted(text)

    def warned(self, text: str) -> None:
        self._write(f"warning: {text}")
        self._report.warned(text)

    def finished(self, result: TuningResult, best_path: str) -> None:
        best = "no trial has a metric" if result.best is None else f"trial {result.best.trial}"
        status, seconds = result.status.replace("_", " "), wording.duration(result.seconds)
        self._write(f"{status} ({result.stop_reason}) after {seconds}: {best}, {best_path}")
        self._report.finished(result, best_path)

    def _write(self, text: str) -> None:
        if not self._opened or self._failed:  # before, the run directory may be another job's
            return
        stamp = time.strftime("%Y-%m-%d %H:%M:%S")
        try:
            with self._path().open("a", encoding="utf-8") as file:
                file.write(f"{stamp} {wording.printable(' '.join(text.split()))}\n")
        except OSError as error:
            self._failed = True
            self._report.warned(f"{self._path()}: cannot be written: {error.strerror or error}")
