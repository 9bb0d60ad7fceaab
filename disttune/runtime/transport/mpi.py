"""The MPI transport: mpi4py with out-of-band buffers (`mpi4py.util.pkl5`).

MPI has no descriptor to sleep on, so an idle rank polls, the more rarely the longer nothing has come: it
waits a fiftieth of the time since the last message, which costs at most 2 % of latency and of a core.
"""

import select
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

from disttune.runtime.messages import Envelope, ToAgent, ToMaster

SHORTEST_WAIT_S = 50e-6
LONGEST_WAIT_S = 20e-3
WAIT_FRACTION = 1 / 50
CLOSING_S = 10.0


class MpiTransport:
    """Point-to-point messages over a communicator of our own.

    Args:
        comm: an mpi4py communicator that nothing else uses (default: a duplicate of COMM_WORLD).
    """

    def __init__(self, comm: Any = None):
        from mpi4py import MPI
        from mpi4py.util import pkl5

        self._mpi = MPI
        self._comm = pkl5.Intracomm(comm if comm is not None else MPI.COMM_WORLD.Dup())
        self.rank: int = self._comm.Get_rank()
        self.size: int = self._comm.Get_size()
        self._to_self: deque[Envelope] = deque()
        self._sending: deque[Any] = deque()
        self._last_traffic_s = time.monotonic()

    def send(self, to: int, message: ToAgent | ToMaster) -> None:
        self._last_traffic_s = time.monotonic()
        if to == self.rank:
            self._to_self.append(Envelope(to, message))
        else:
            self._sending.append(self._comm.isend(message, to))

    def receive(self, timeout_s: float, descriptors: Sequence[int] = ()) -> list[Envelope]:
        deadline_s = time.monotonic() + timeout_s
        while True:
            messages = self._arrived()
            now_s = time.monotonic()
            if messages:
                self._last_traffic_s = now_s
                return messages
            if now_s >= deadline_s:
                return []
            wait_s = max(SHORTEST_WAIT_S, min(LONGEST_WAIT_S, (now_s - self._last_traffic_s) * WAIT_FRACTION))
            readable, _, _ = select.select(descriptors, (), (), min(wait_s, deadline_s - now_s))
            if readable:
                self._last_traffic_s = time.monotonic()
                return self._arrived()

    def now_s(self) -> float:
        return time.monotonic()

    def close(self) -> None:
        """Wait (at most 10 s) until what was sent has left."""
        deadline_s = time.monotonic() + CLOSING_S
        while self._sending and time.monotonic() < deadline_s:
            self._forget_sent()
            time.sleep(SHORTEST_WAIT_S)

    def _arrived(self) -> list[Envelope]:
        self._forget_sent()
        messages = list(self._to_self)
        self._to_self.clear()
        status = self._mpi.Status()
        while (message := self._comm.improbe(status=status)) is not None:
            messages.append(Envelope(status.Get_source(), message.recv()))
        return messages

    def _forget_sent(self) -> None:
        for _ in range(len(self._sending)):
            request = self._sending.popleft()
            if not request.test()[0]:
                self._sending.append(request)
