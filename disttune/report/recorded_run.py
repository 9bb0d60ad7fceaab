"""A finished run as its directory tells it: result.json and trials.csv, read as data and checked."""

import csv
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from disttune.config.errors import RunDirectoryError
from disttune.report.files import COLUMNS
from disttune.runtime.result import EXIT_CODES, SCHEMA

Row = Mapping[str, str]
MISSING = object()
_WHOLE_NUMBER = re.compile("[0-9]{1,19}")
WHOLE_NUMBERS = ("trial", "size_bytes")  # columns; where there is a value


@dataclass(frozen=True)
class RecordedRun:
    """What a run came to.

    Args:
        path: its directory.
        result: content of result.json.
        rows: of trials.csv, as text by column.
    """

    path: Path
    result: Mapping[str, Any]
    rows: tuple[Row, ...]

    @property
    def name(self) -> str:
        return self.path.resolve().name

    @property
    def goal_met(self) -> bool:
        return bool(self.result["status"] == "goal_met")

    @property
    def higher_is_better(self) -> bool:
        return bool(self.result["higher_is_better"])

    @property
    def metric(self) -> float | None:
        """Of the best trial."""
        return self._of_best("metric")

    @property
    def size_bytes(self) -> float | None:
        """Of the best trial."""
        return self._of_best("size_bytes")

    @property
    def latency_ratio(self) -> float | None:
        """Of the best trial to the float model, where it was measured."""
        best = self.result["best"]
        latency = best.get("latency") if best else None
        return float(latency["ratio"]) if latency else None

    @property
    def seconds(self) -> float:
        """Of all sessions together."""
        return float(self.result["seconds"])

    def _of_best(self, key: str) -> float | None:
        best = self.result["best"]
        return None if best is None or best[key] is None else float(best[key])


def read_run(path: Path) -> RecordedRun:
    """Read a run directory; nothing in it is run.

    Raises:
        RunDirectoryError: it is none, its run has not ended, or a file of it is damaged.
    """
    if not path.is_dir():
        raise RunDirectoryError(f"{path}: no such run directory")
    result_path, trials_path = path / "result.json", path / "trials.csv"
    if not result_path.is_file():
        if (path / "journal.jsonl").is_file():
            raise RunDirectoryError(
                f"{path}: the run has no result.json, so it has not ended. Run its command again to go on."
            )
        raise RunDirectoryError(f"{path}: this is no run directory: it has neither result.json nor a journal")
    return RecordedRun(path, _read_result(result_path), _read_trials(trials_path))


def _read_result(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunDirectoryError(f"{path}: cannot be read: {error}") from error
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        raise RunDirectoryError(f"{path}: this is no result of schema {SCHEMA}, which this version reads")
    problem = _problem(found)
    if problem:
        raise RunDirectoryError(f"{path}: damaged: {problem}")
    return found


def _problem(found: Mapping[str, Any]) -> str:
    """What keeps a result from being one; empty when nothing does."""
    if found.get("status") not in list(EXIT_CODES):  # which may be unhashable
        return f"its status is {found.get('status')!r}, not one of {', '.join(EXIT_CODES)}"
    for key in ("goal", "seconds", "trials", "ranks"):
        if not _is_number(found.get(key)):
            return f'"{key}" is {found.get(key)!r}, not a number'
    if not isinstance(found.get("stop_reason"), str):
        return f'"stop_reason" is {found.get("stop_reason")!r}, not a text'
    if not isinstance(found.get("higher_is_better"), bool):
        return '"higher_is_better" is neither true nor false'
    baseline, best = found.get("baseline"), found.get("best", MISSING)
    if not isinstance(baseline, dict) or not _is_number(baseline.get("metric")):
        return 'its "baseline" has no metric'
    if not _is_number_or_none(baseline.get("size_bytes")):
        return 'its "baseline" has a size that is no number'
    if best is not None and not (
        isinstance(best, dict)
        and isinstance(best.get("trial"), int)
        and all(key in best and _is_number_or_none(best[key]) for key in ("metric", "size_bytes"))
        and _is_latency(best.get("latency"))
    ):
        return 'its "best" is no trial'
    pareto, sensitivity = found.get("pareto", []), found.get("sensitivity", [])
    if not isinstance(pareto, list) or not all(isinstance(n, int) for n in pareto):
        return 'its "pareto" is no list of trials'
    if not isinstance(sensitivity, list) or not all(map(_is_sensitivity, sensitivity)):
        return 'its "sensitivity" is no list of ops, precisions and losses'
    return ""


def _is_sensitivity(row: object) -> bool:
    return (
        isinstance(row, dict)
        and isinstance(row.get("ops"), list)
        and all(isinstance(op, str) for op in row["ops"])
        and isinstance(row.get("precision"), str)
        and _is_number(row.get("loss"))
    )


def _is_latency(value: object) -> bool:
    return value is None or (isinstance(value, dict) and _is_number(value.get("ratio")))


def _is_number_or_none(value: object) -> bool:
    return value is None or _is_number(value)


def _is_number(value: object) -> bool:
    """A finite one that is no truth value; an integer that no float holds is none either."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False


def _read_trials(path: Path) -> tuple[Row, ...]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            rows = tuple(dict(row) for row in reader)
            missing = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise RunDirectoryError(f"{path}: cannot be read: {error}") from error
    if missing or any(None in row or None in row.values() for row in rows):
        what = f"it has no column {missing[0]}" if missing else "a row does not fit the header"
        raise RunDirectoryError(f"{path}: damaged: {what}")
    for number, row in enumerate(rows, start=2):
        for column in WHOLE_NUMBERS:
            if row[column] and not _WHOLE_NUMBER.fullmatch(row[column]):
                raise RunDirectoryError(f"{path}: damaged: row {number}: {column} is no whole number")
    return rows
