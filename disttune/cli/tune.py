"""`disttune tune`: run a job file on all ranks."""

from pathlib import Path
from typing import Annotated

import typer

from disttune.api.tune_job import DEFAULT_RUN_DIRECTORY, LogFormat, tune_job
from disttune.cli.application import command
from disttune.config.errors import InputError
from disttune.config.job_file import load_job
from disttune.runtime.run_directory import RunDirectory
from disttune.runtime.world import join_world


@command("tune")
def tune(
    job: Annotated[Path, typer.Argument(help="Job file (TOML).")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Run directory.")] = DEFAULT_RUN_DIRECTORY,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Override a key, e.g. tuning.max_trials=50. May be repeated."),
    ] = None,
    fresh: Annotated[
        bool,
        typer.Option("--fresh", help="Start anew: remove the results of the run directory's earlier job."),
    ] = False,
    also_to: Annotated[
        Path | None,
        typer.Option(help="Second directory for results; the only one when the run directory's disk fails."),
    ] = None,
    log_format: Annotated[str, typer.Option(help="plain or json (one object a line).")] = "plain",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only warnings and errors.")] = False,
) -> int:
    """Tune a model: find the quantized model that meets the goal of the job file.

    The same command again goes on where an earlier one ended. Start it under mpirun to use several ranks.

    Exit codes: 0 goal met, 3 goal not met (the best so far is written), 75 interrupted with work left,
    2 wrong input, 1 a fault of disttune, 130 interrupted twice.
    """
    return run(job, output, set_ or [], fresh, as_log_format(log_format, quiet), also_to)


def run(
    job_file: Path,
    output: Path,
    overrides: list[str],
    fresh: bool,
    log_format: LogFormat,
    also_to: Path | None = None,
) -> int:
    """Join the world, run the job, return the exit code; a mistake ends all ranks."""
    job = load_job(job_file, overrides)
    transport = join_world()
    if transport.rank != 0:
        raise InputError(f"this process is rank {transport.rank}, but its launcher said rank 0")
    try:
        return tune_job(job, transport, RunDirectory(output, also_to), fresh, log_format).exit_code
    finally:
        transport.close()


def as_log_format(text: str, quiet: bool) -> LogFormat:
    if text not in ("plain", "json"):
        raise InputError(f'--log-format "{text}": it is "plain" or "json"')
    if quiet:
        return "quiet"
    return "json" if text == "json" else "plain"
