"""The scratch folder of a rank that does not share rank 0's disk: the user's files are written there."""

import contextlib
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
            self._folder = Path(tempfile.mkdtemp(prefix="disttune-", dir=os.environ.get("SLURM_TMPDIR")))
        write_files(files, self._folder)
        return self._folder

    def remove(self) -> None:
        if self._folder is not None:
            with contextlib.suppress(OSError):
                shutil.rmtree(self._folder)
            self._folder = None
