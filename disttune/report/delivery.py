"""Delivery of a finished job's results: to the run directory, to a second place, in need to stdout."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from disttune.config.errors import RunDirectoryError
from disttune.report.files import result_json, trials_csv, write_result
from disttune.runtime.result import TuningResult
from disttune.runtime.run_directory import RunDirectory


def deliver(result: TuningResult, run: RunDirectory, warn: Callable[[str], None]) -> Path:
    """Write result.json and trials.csv, and with the best model to the second place if there is one.

    Returns:
        Where the best model is.
    Raises:
        RunDirectoryError: neither place takes them; they are on stdout then.
    """
    try:
        write_result(result, run.result_file, run.trials_file)
    except RunDirectoryError as error:
        if run.also_to is None:
            _print(result)
            raise RunDirectoryError(
                f"{error} The result and the trial table are on stdout; --also-to DIR names a second place."
            ) from error
        warn(f"{error}")
    if run.also_to is None:
        return run.best_model
    return _write_second(result, run, run.also_to)


def _write_second(result: TuningResult, run: RunDirectory, folder: Path) -> Path:
    """The second place holds the best model already where the run directory did not take it."""
    second = folder / run.best_model.name
    is_there = second.is_file() and _is_newer(second, run.best_model)
    try:
        for file in [] if is_there else run.path.glob("best.onnx*"):
            shutil.copyfile(file, folder / file.name)
        write_result(result, folder / run.result_file.name, folder / run.trials_file.name)
    except (OSError, RunDirectoryError) as error:
        _print(result)
        raise RunDirectoryError(
            f"{folder}: cannot be written: {error}. The result and the trial table are on stdout."
        ) from error
    return second


def _is_newer(file: Path, other: Path) -> bool:
    return not other.is_file() or file.stat().st_mtime > other.stat().st_mtime


def _print(result: TuningResult) -> None:
    sys.stdout.write(result_json(result))
    sys.stdout.write(trials_csv(result.trials, result.evaluators))
    sys.stdout.flush()
