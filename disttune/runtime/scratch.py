"""Scratch folders: for the user's files on a rank without rank 0's disk, and for a trial process's own."""

import os
import shutil
import tempfile
from pathlib import Path

from disttune.evaluate.user_files import write_files


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
    return Path(tempfile.mkdtemp(prefix="disttune-", dir=os.environ.get("SLURM_TMPDIR")))
