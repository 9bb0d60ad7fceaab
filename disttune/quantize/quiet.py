"""Keep onnxruntime's prints, warnings, Python log records and C++ log lines out of the user's terminal."""

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import onnxruntime

_FATAL_ONLY = 4
_DEFAULT_SEVERITY = 2


@contextlib.contextmanager
def quiet_onnxruntime(directory: Path | None = None) -> Iterator[list[str]]:
    """Silence onnxruntime and its tools within the block, and tell them where temporary files go.

    Not for several threads: it swaps `sys.stdout`, `tempfile.tempdir`, the filters of warnings and the
    root logger's handlers.

    Args:
        directory: for temporary files; None: the system's place.
    Yields:
        A list that gets the text of every log record of level ERROR.
    """
    errors: list[str] = []
    root = logging.getLogger()
    handlers = root.handlers[:]
    usual_directory = tempfile.tempdir
    root.handlers[:] = [_ErrorList(errors)]
    onnxruntime.set_default_logger_severity(_FATAL_ONLY)
    if directory is not None:
        tempfile.tempdir = str(directory)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings(action="ignore"):
            yield errors
    finally:
        onnxruntime.set_default_logger_severity(_DEFAULT_SEVERITY)
        tempfile.tempdir = usual_directory
        root.handlers[:] = handlers


class _ErrorList(logging.Handler):
    def __init__(self, errors: list[str]):
        super().__init__(logging.ERROR)
        self.errors = errors

    def emit(self, record: logging.LogRecord) -> None:
        self.errors.append(record.getMessage())
