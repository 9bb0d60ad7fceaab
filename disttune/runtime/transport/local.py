"""The local transport: one process is the whole job (no mpirun)."""

import select
import time
from collections import deque
from collections.abc import Sequence

from disttune.runtime.messages import Envelope, ToAgent, ToMaster


class LocalTransport:
    """Rank 0 of 1: a message to oneself is received next."""

    rank = 0
    size = 1
    survives_loss = False

    def __init__(self) -> None:
        self._arrived: deque[Envelope] = deque()

    def send(self, to: int, message: ToAgent | ToMaster) -> None:
        assert to == 0
        self._arrived.append(Envelope(0, message))

    def receive(self, timeout_s: float, descriptors: Sequence[int] = ()) -> list[Envelope]:
        if not self._arrived:
            select.select(descriptors, (), (), timeout_s)
        messages = list(self._arrived)
        self._arrived.clear()
        return messages

    def now_s(self) -> float:
        return time.monotonic()

    def close(self) -> None:
        self._arrived.clear()
