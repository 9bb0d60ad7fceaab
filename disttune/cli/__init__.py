"""The command line: one file per command; adding one is a new file with `@command` and no edit elsewhere."""

import sys
from collections.abc import Sequence
from pathlib import Path

DEFAULT_JOB_FILE = Path("disttune.toml")
COLLECTIVE = ("tune", "demo")  # commands of all ranks


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given:
        given = ["tune", str(DEFAULT_JOB_FILE)] if DEFAULT_JOB_FILE.is_file() else ["--help"]
    if given[0] not in COLLECTIVE or {"--help", "-h"} & set(given):
        from disttune.cli.application import run_alone

        return run_alone(given)
    from disttune.runtime.early_process import end_early, start_early

    start_early()
    try:
        from disttune.cli.application import run_on_all_ranks

        return run_on_all_ranks(given)
    finally:
        end_early()
