"""The command line in this process: no launcher around it, wide output, and the caller's path as it was."""

import sys
from pathlib import Path

import pytest

from disttune.cli import main
from disttune.runtime.world import LAUNCHED_VARIABLES
from tests.cli.jobs import write_job


@pytest.fixture(autouse=True)
def plain_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in LAUNCHED_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A job file; its folder is the current one."""
    monkeypatch.chdir(tmp_path)
    return write_job(tmp_path)


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]):
    """Runs a command line: exit code, standard output, standard error."""

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([str(a) for a in arguments])
        return (code, *capsys.readouterr())

    return run
