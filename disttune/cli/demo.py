"""`disttune demo`: tune a bundled model."""

from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from disttune.cli.application import command
from disttune.cli.tune import as_log_format, run
from disttune.config.errors import InputError
from disttune.config.nearest import unknown_name

EXAMPLES = ("digits_cnn", "digits_transformer")


def demo_directory(example: str) -> Path:
    """Where a demo keeps its files unless told: not where a job of the user's would."""
    return Path(f"disttune_run_{example}")


@command("demo")
def demo(
    example: Annotated[str, typer.Argument(help=f"One of {', '.join(EXAMPLES)}.")] = EXAMPLES[0],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Run directory.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Override a key of its job file.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an earlier demo instead of anew.")
    ] = False,
    log_format: Annotated[str, typer.Option(help="plain or json (one object a line).")] = "plain",
) -> int:
    """Tune a small model that comes with disttune, trained on real handwritten digits."""
    if example not in EXAMPLES:
        raise InputError(unknown_name("example", example, EXAMPLES))
    job_file = Path(str(files("disttune.examples"))) / example / "job.toml"
    path = output or demo_directory(example)
    return run(job_file, path, set_ or [], not resume, as_log_format(log_format, False))
