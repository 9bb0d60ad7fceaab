"""Sends what a trial process wrote to rank 0, which alone writes logs: in pieces, up to the size of a log."""

from collections.abc import Callable

from disttune.runtime.log_files import LIMIT_BYTES
from disttune.runtime.messages import LogText, ToMaster

EVERY_S = 1.0
PIECE_BYTES = 4096


class LogForwarding:
    """Gathers text and sends it when it is long or old enough."""

    def __init__(self, tell: Callable[[ToMaster], None]):
        self._tell = tell
        self._text = ""
        self._n_sent = 0
        self._sent_s = 0.0

    def add(self, text: str, now_s: float, now: bool = False) -> None:
        """Take text; `now` sends all there is."""
        self._text += text
        if not self._text or not (now or len(self._text) > PIECE_BYTES or now_s - self._sent_s > EVERY_S):
            return
        if self._n_sent <= LIMIT_BYTES:  # the log would drop what comes later
            self._tell(LogText(self._text))
        self._n_sent += len(self._text)
        self._sent_s = now_s
        self._text = ""
