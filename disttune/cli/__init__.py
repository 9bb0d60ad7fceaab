"""The command line: one file per command; adding one is a new file with `@command` and no edit elsewhere."""

from disttune.cli.application import main

__all__ = ["main"]
