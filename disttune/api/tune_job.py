"""Tune a job on every rank of this world and write its files: what `autotune` and the command line share."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from disttune.config.auto_search_job import AUTO_SEARCH
from disttune.config.errors import error_class
from disttune.config.job import Job
from disttune.report.console import ConsoleReport, JsonReport
from disttune.report.delivery import deliver
from disttune.report.report import Report
from disttune.report.search_log import SearchLog
from disttune.runtime.late_flush import flush_soon
from disttune.runtime.listener import Silent
from disttune.runtime.messages import Goodbye
from disttune.runtime.ranks import run_agent, run_master
from disttune.runtime.result import TuningResult
from disttune.runtime.run_directory import RunDirectory
from disttune.runtime.start_messages import Functions
from disttune.runtime.transport import Transport

DEFAULT_RUN_DIRECTORY = Path("disttune_run")
LogFormat = Literal["plain", "json", "quiet"]


class Quiet(Silent):
    """Tells warnings on stderr and nothing else."""

    def warned(self, text: str) -> None:
        sys.stderr.write(f"warning: {text}\n")

    def finished(self, result: TuningResult, best_path: str) -> None: ...


def make_report(log_format: LogFormat) -> Report:
    if log_format == "json":
        return JsonReport(sys.stdout)
    return ConsoleReport(sys.stdout) if log_format == "plain" else Quiet()


def tune_job(
    job: Job,
    transport: Transport,
    run: RunDirectory,
    fresh: bool = False,
    log_format: LogFormat = "plain",
    functions: Functions | None = None,
    handed: Mapping[str, Any] | None = None,
    share_model: bool = False,
) -> TuningResult:
    """Run a job as rank 0; the other ranks call `serve`.

    Args:
        job: what to do.
        transport: of this world.
        run: its directory.
        fresh: start anew where a journal is found.
        log_format: how progress is told.
        functions: the user's functions when they do not come from files.
        handed: the same functions themselves, for `isolation = "none"`.
        share_model: whether every rank gets the result and the best model's bytes.
    Returns:
        The result; result.json and trials.csv are written.
    Raises:
        DisttuneError: with a message for the user and an exit code.
    """
    report = make_report(log_format)
    if job.tuning.strategy == AUTO_SEARCH:
        report = SearchLog(report, lambda: run.search_log)

    def farewell(result: TuningResult, run: RunDirectory) -> Goodbye:
        best_model = deliver(result, run, report.warned)
        report.finished(result, str(best_model))
        paths = list(best_model.parent.glob("best.onnx*"))
        flush_soon(paths)
        is_shared = share_model and transport.size > 1
        files = {p.name: p.read_bytes() for p in paths} if is_shared else None
        shared = result if share_model else None
        return Goodbye(0, shared, files, providers=tuple(job.model.providers))

    return run_master(job, functions or Functions(), run, fresh, transport, report, farewell, handed)


def serve(transport: Transport, handed: Mapping[str, Any] | None = None) -> Goodbye:
    """Serve rank 0 until the job ends; called on every other rank.

    Raises:
        DisttuneError: the job ended with a message for the user; of the class that rank 0 raises.
    """
    goodbye = run_agent(transport, handed)
    if goodbye.exit_code != 0:
        error = error_class(goodbye.error, goodbye.exit_code)(goodbye.message)
        error.exit_code = goodbye.exit_code
        raise error
    return goodbye


def dismiss(transport: Transport, exit_code: int, message: str, error: str = "") -> None:
    """Let the other ranks end: rank 0 found a mistake before the job began; `error` is its class."""
    for rank in range(1, transport.size):
        transport.send(rank, Goodbye(exit_code, message=message, error=error))
