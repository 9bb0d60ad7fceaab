"""Scratch folders: what a killed process leaves is removed by another, and nothing else is."""

import subprocess
import sys
from pathlib import Path

import pytest

from disttune.runtime.scratch import make_folder, remove_abandoned

MAKE = "from disttune.runtime.scratch import make_folder; import os; print(make_folder()); "


def test_folder_of_a_killed_process_is_removed_and_others_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SLURM_TMPDIR", str(tmp_path))
    code = MAKE + "os.kill(os.getpid(), 9)"
    killed = Path(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip())
    ours = make_folder()
    theirs = tmp_path / killed.name.replace("disttune-", "disttune-f")  # another machine's, or container's
    for folder in (theirs, tmp_path / "disttune-notes"):
        folder.mkdir()
    assert killed.is_dir()

    remove_abandoned()

    assert not killed.exists()
    assert sorted(tmp_path.iterdir()) == sorted([ours, theirs, tmp_path / "disttune-notes"])
