"""`disttune report`: a finished run for a CI summary, a test report or a program."""

from pathlib import Path
from typing import Annotated

import typer

from disttune.cli.application import command
from disttune.config.errors import InputError
from disttune.config.nearest import unknown_name
from disttune.report.formats import FORMATS
from disttune.report.recorded_run import read_run


@command("report")
def report(
    run: Annotated[Path, typer.Argument(help="Run directory.")],
    format_: Annotated[str, typer.Option("--format", help=f"One of {', '.join(FORMATS)}.")] = "markdown",
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="File to write; without it: the console.")
    ] = None,
) -> int:
    """Show a finished run: verdict, best model, all trials. Reads result.json and trials.csv alone."""
    if format_ not in FORMATS:
        raise InputError(unknown_name("format", format_, FORMATS))
    write_text(FORMATS[format_](read_run(run)), output)
    return 0


def write_text(text: str, output: Path | None) -> None:
    """Print, or write to a file.

    Raises:
        InputError: the file cannot be written.
    """
    if output is None:
        typer.echo(text, nl=False)
        return
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{output}: cannot be written: {error.strerror or error}") from error
