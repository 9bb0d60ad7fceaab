"""Keep onnxruntime's prints, warnings, Python log records and C++ log lines out of the user's terminal."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

import onnxruntime

_ERRORS_ONLY = 3
_DEFAULT_SEVERITY = 2


@contextlib.contextmanager
def quiet_onnxruntime() -> Iterator[list[str]]:
    """Silence onnxruntime and its tools within the block.

    Not for several threads: it swaps `sys.stdout`, the filters of warnings and the root logger's handlers.

    Yields:
        A list that gets the text of every log record of level ERROR.
    """
    errors: list[str] = []
    root = logging.getLogger()
    handlers = root.handlers[:]
    root.handlers[:] = [_ErrorList(errors)]
    onnxruntime.set_default_logger_severity(_ERRORS_ONLY + 1)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings(action="ignore"):
            yield errors
    finally:
        onnxruntime.set_default_logger_severity(_DEFAULT_SEVERITY)
        root.handlers[:] = handlers


class _ErrorList(logging.Handler):
    def __init__(self, errors: list[str]):
        super().__init__(logging.ERROR)
        self.errors = errors

    def emit(self, record: logging.LogRecord) -> None:
        self.errors.append(record.getMessage())
