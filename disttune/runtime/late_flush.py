"""Bringing the best model to the disk when the job has ended, while its result is already being used.

A disk takes longer for it than many searches last. The thread is waited for at the end of the process.
"""

import os
import sys
import threading
from collections.abc import Iterable
from pathlib import Path

from disttune.runtime.atomic_write import sync_directory


def flush_soon(paths: Iterable[Path]) -> threading.Thread:
    """Start to wait for the disk; what it refuses is told on stderr.

    Args:
        paths: of files in one folder.
    """
    thread = threading.Thread(target=_flush, args=(list(paths),), name="disttune-flush")
    thread.start()
    return thread


def _flush(paths: list[Path]) -> None:
    for path in paths:
        try:
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            sync_directory(path.parent)
        except OSError as error:
            sys.stderr.write(f"warning: {path} may not be on the disk: {error.strerror or error}\n")
