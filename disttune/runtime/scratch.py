"""Scratch folders: for the user's files on a rank without rank 0's disk, and for a trial process's own.

Their names tell whose they are, so that those of agents that were killed are found and removed by others of
the machine.
"""

import contextlib
import os
import re
import shutil
import tempfile
from pathlib import Path

from disttune.evaluate.user_files import write_files
from disttune.runtime.lock_holder import process_alive, this_process

_NAME = re.compile(r"disttune-(?P<space>[0-9a-f]*-[0-9]*)-(?P<pid>[0-9]+)-(?P<ticks>[0-9]+)-\w+")


class Scratch:
    """A temporary folder, made when first needed and removed at the end."""

    def __init__(self) -> None:
        self._folder: Path | None = None

    def write(self, files: dict[str, bytes]) -> Path:
        """Write files by relative path; returns their folder.

        Raises:
            DataError: a path would leave the folder.
        """
        if self._folder is None:
            self._folder = make_folder()
        write_files(files, self._folder)
        return self._folder

    def remove(self) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None


def make_folder() -> Path:
    """A new folder on the fastest disk of this node that the batch system names, else in the usual place."""
    process = this_process()
    prefix = f"disttune-{_process_space()}-{process.pid}-{process.started_ticks}-"
    return Path(tempfile.mkdtemp(prefix=prefix, dir=scratch_place()))


def remove_abandoned() -> None:
    """Remove scratch folders of processes of this machine that are gone: they were killed."""
    space = _process_space()
    with contextlib.suppress(OSError):
        for entry in scratch_place().iterdir():
            name = _NAME.fullmatch(entry.name)
            if name and name["space"] == space and not process_alive(int(name["pid"]), int(name["ticks"])):
                shutil.rmtree(entry, ignore_errors=True)


def scratch_place() -> Path:
    """Where this node's temporary files go: what the batch system names, else the usual place."""
    return Path(os.environ.get("SLURM_TMPDIR") or tempfile.gettempdir())


def _process_space() -> str:
    """Equal for processes whose ids compare: the kernel's boot and the process space."""
    process = this_process()
    return f"{process.boot_id[:8]}-{''.join(filter(str.isdigit, process.pid_namespace))}"
