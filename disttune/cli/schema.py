"""`disttune schema`: the JSON Schema of job files."""

import json

import typer

from disttune.cli.application import command
from disttune.config.job_file import json_schema


@command("schema")
def schema() -> int:
    """Print the JSON Schema of job files, for editors that complete and check TOML."""
    typer.echo(json.dumps(json_schema(), indent=2))
    return 0
