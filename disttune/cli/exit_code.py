"""`disttune exit-code`: what the code of an ended mpirun means (for launchers)."""

import itertools
import signal
from pathlib import Path
from typing import Annotated

import typer

from disttune.api.tune_job import DEFAULT_RUN_DIRECTORY
from disttune.cli import COLLECTIVE
from disttune.cli.application import command
from disttune.cli.demo import EXAMPLES, demo_directory
from disttune.config.errors import DisttuneError
from disttune.runtime.journal import read_journal
from disttune.runtime.records import FinishRecord
from disttune.runtime.result import EXIT_CODES
from disttune.runtime.run_directory import RunDirectory

ENDED_BY_USR1 = 128 + signal.SIGUSR1


@command("exit-code", hidden=True)
def exit_code(
    code: Annotated[int, typer.Argument(help="Exit code of mpirun.")],
    arguments: Annotated[list[str] | None, typer.Argument(help="The command line that mpirun ran.")] = None,
) -> int:
    """Tell a killed job from a failed one: 75 when rank 0 was killed with work left, else the code itself.

    Under ULFM mpirun even ends with 0 when all ranks were killed.
    Rank 0 removes its lock whenever it ends by itself, so a lock that is left shows that it was killed.
    138 stands for an mpirun that was asked to end, maybe before it had ranks: 75 unless the job has finished.
    """
    if arguments and not arguments[0].startswith("-") and arguments[0] not in COLLECTIVE:
        return code
    run = RunDirectory(_output(arguments or []))
    if code != ENDED_BY_USR1 and not run.lock_file.exists():
        return code
    try:
        records = read_journal(run.journal_file).records
    except DisttuneError:
        return code if code != ENDED_BY_USR1 else EXIT_CODES["interrupted"]
    last = records[-1] if records else None
    return EXIT_CODES[last.status] if isinstance(last, FinishRecord) else EXIT_CODES["interrupted"]


def _output(arguments: list[str]) -> Path:
    """The run directory that a command line names."""
    for option, value in itertools.pairwise(arguments):
        if option in ("-o", "--output"):
            return Path(value)
    joined = [a.partition("=")[2] for a in arguments if a.startswith("--output=")]
    if joined:
        return Path(joined[0])
    if arguments[:1] == ["demo"]:
        return demo_directory(next((a for a in arguments if a in EXAMPLES), EXAMPLES[0]))
    return DEFAULT_RUN_DIRECTORY
