"""result.json and trials.csv of a run."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path

from disttune.report.wording import printable
from disttune.runtime.atomic_write import write_atomically
from disttune.runtime.result import TuningResult
from disttune.strategy.trial import Trial

COLUMNS = (
    "trial", "stage", "digest", "model_digest", "duplicate_of", "status", "metric", "meets_goal",
    "size_bytes", "seconds", "rank", "reason", "latency_ratio", "latency_spread",
)  # fmt: skip


def write_result(result: TuningResult, result_path: Path, trials_path: Path) -> None:
    """Write both files, each whole or not at all.

    Raises:
        RunDirectoryError: a file cannot be written.
    """
    write_atomically(result_path, result_json(result))
    write_atomically(trials_path, trials_csv(result.trials, result.evaluators))


def result_json(result: TuningResult) -> str:
    """The text of result.json."""
    return json.dumps(result.to_dict(), indent=2, allow_nan=False) + "\n"


def trials_csv(trials: Sequence[Trial], evaluators: Sequence[str]) -> str:
    """The trial table; one more column for each evaluator, empty where a trial has no metric."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*COLUMNS, *_columns(evaluators)])
    for t in trials:
        values = t.values if t.values is not None else ("",) * len(evaluators)
        writer.writerow([
            t.number, _line(t.stage), t.candidate.digest, t.model_digest or "", _text(t.duplicate_of),
            t.status, _text(t.metric), str(t.meets_goal).lower(), _text(t.size_bytes), f"{t.seconds:.3f}",
            t.rank, _line(t.reason), _text(t.latency.ratio if t.latency else None),
            _text(t.latency.spread if t.latency else None), *values,
        ])  # fmt: skip
    return text.getvalue()


def _columns(evaluators: Sequence[str]) -> list[str]:
    """A column name for each evaluator that no other column has."""
    taken = list(COLUMNS)
    for name in map(_line, evaluators):
        while name in taken:
            name = f"{name}_value"
        taken.append(name)
    return taken[len(COLUMNS) :]


def _line(text: str) -> str:
    return printable(" ".join(text.split()))


def _text(value: float | int | None) -> str:
    return "" if value is None else repr(value)
