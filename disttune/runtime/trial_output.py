"""What a trial process writes: text for the rank's log, and the last lines of a trial for its row.

However much comes, only a tail of `TAIL_BYTES` and what the log has not taken yet are held.
"""

import codecs
import os
from typing import IO

TAIL_LINES = 40  # a segmentation fault takes 25, and what was written before it is wanted, too
TAIL_BYTES = 1 << 13
PIPE_BYTES = 1 << 16
PORTION_BYTES = 1 << 20  # read at a time, so that a flood does not keep the agent from its other work


class TrialOutput:
    """Reads one pipe after the other: those of a trial process and of its successors."""

    def __init__(self) -> None:
        self._pipe: IO[bytes] | None = None
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._log = ""
        self._tail = b""

    def open(self, pipe: IO[bytes]) -> None:
        """Read this pipe from now on; the log goes on, the tail begins anew."""
        os.set_blocking(pipe.fileno(), False)
        self._pipe = pipe
        self._decoder.reset()
        self._tail = b""

    def close(self) -> None:
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None

    def descriptors(self) -> list[int]:
        """What becomes readable when something was written; nothing once all writers have closed."""
        return [] if self._pipe is None else [self._pipe.fileno()]

    def read(self) -> None:
        """Take in what has been written."""
        n_read = 0
        while self._pipe is not None and n_read < PORTION_BYTES:
            try:
                data = os.read(self._pipe.fileno(), PIPE_BYTES)
            except BlockingIOError:
                return
            if not data:
                self.close()
            n_read += len(data)
            self._log += self._decoder.decode(data)
            self._tail = (self._tail + data)[-TAIL_BYTES:]

    def take_log(self) -> str:
        """The text since the last call."""
        text, self._log = self._log, ""
        return text

    def forget_tail(self) -> None:
        """Lines before now do not belong to the tail."""
        self.read()
        self._tail = b""

    def tail(self) -> str:
        """The last lines, at most `TAIL_LINES`."""
        self.read()
        return "\n".join(self._tail.decode("utf-8", "replace").splitlines()[-TAIL_LINES:])
