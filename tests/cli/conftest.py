"""The command line in this process: no launcher around it, wide output, and the caller's path as it was."""

import sys

import pytest

from disttune.runtime.world import LAUNCHED_VARIABLES


@pytest.fixture(autouse=True)
def plain_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in LAUNCHED_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys, "path", list(sys.path))
