"""The MPI transport: mpi4py, pickle protocol 5 with out-of-band buffers, nothing that waits for one rank.

MPI has no descriptor to sleep on, so a rank polls, the more rarely the longer nothing has come. Rank 0 waits
a fiftieth of the time since the last message, which costs at most 2 % of latency and of a core. Another rank
waits a tenth: what it is told comes at once after its own word, and its trial process has a descriptor.

A message travels as its parts: their sizes, the pickle, each buffer, in pieces of at most 1 GiB. Parts are
received as they come, so that a sender that is stopped half-way holds up nobody. Where MPI survives the
loss of a process (ULFM), a rank that is gone shows as a `RankLost` from it.
"""

import os
import select
import struct
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

from disttune.runtime.messages import Envelope, RankLost, ToAgent, ToMaster

SHORTEST_WAIT_S = 50e-6
LONGEST_WAIT_S = 20e-3
WAIT_FRACTION = 1 / 10  # of the time since the last message
WAIT_FRACTION_OF_RANK_0 = 1 / 50
CLOSING_S = 10.0
PIECE_BYTES = 2**30  # of a part; the counts of MPI 3 end at 2 GiB
GONE = "its process is gone"
FT_VARIABLE = "OMPI_MCA_mpi_ft_enable"  # set by mpirun --with-ft ulfm


class MpiTransport:
    """Point-to-point messages over a communicator of our own.

    Args:
        comm: an mpi4py communicator that nothing else uses (default: a duplicate of COMM_WORLD).
    """

    def __init__(self, comm: Any = None):
        import mpi4py

        self.survives_loss = survives_loss()
        if self.survives_loss:  # MPI_Finalize may wait for a rank that is gone; none is needed here
            mpi4py.rc.finalize = False
        from mpi4py import MPI

        self._mpi = MPI
        self._comm = comm if comm is not None else MPI.COMM_WORLD.Dup()
        self._comm.Set_errhandler(MPI.ERRORS_RETURN)
        self._pickle: Any = MPI.Pickle()
        self.rank: int = self._comm.Get_rank()
        self.size: int = self._comm.Get_size()
        self._arrived_here: deque[Envelope] = deque()  # from this rank itself, and of ranks that are gone
        self._sending: deque[_Sending] = deque()
        self._receiving: dict[int, deque[_Receiving]] = {}  # by source, in the order they were sent
        self._gone: set[int] = set()
        self._last_traffic_s = time.monotonic()
        self._wait_fraction = WAIT_FRACTION if self.rank else WAIT_FRACTION_OF_RANK_0

    def send(self, to: int, message: ToAgent | ToMaster) -> None:
        self._last_traffic_s = time.monotonic()
        if to == self.rank:
            self._arrived_here.append(Envelope(to, message))
        elif to not in self._gone:
            self._start_sending(to, message)

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
            quiet_s = now_s - self._last_traffic_s
            wait_s = max(SHORTEST_WAIT_S, min(LONGEST_WAIT_S, quiet_s * self._wait_fraction))
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

    def _start_sending(self, to: int, message: ToAgent | ToMaster) -> None:
        data, buffers = self._pickle.dumps_oob(message)
        parts = [memoryview(part).cast("B") for part in (data, *buffers)]
        sizes = struct.pack(f"{len(parts)}q", *(part.nbytes for part in parts))
        sending = _Sending(to)
        self._sending.append(sending)
        try:
            for piece in (sizes, *_pieces(parts)):
                sending.add(self._comm.Isend((piece, self._mpi.BYTE), to), piece)
        except self._mpi.Exception as error:
            self._look_for_gone(error)

    def _arrived(self) -> list[Envelope]:
        self._forget_sent()
        try:
            self._begin_receiving()
        except self._mpi.Exception as error:
            self._look_for_gone(error)
        messages = [Envelope(source, m) for source in list(self._receiving) for m in self._received(source)]
        messages.extend(self._arrived_here)
        self._arrived_here.clear()
        return messages

    def _begin_receiving(self) -> None:
        """Start to receive every message whose sizes are here."""
        status = self._mpi.Status()
        while (first := self._comm.Improbe(status=status)) is not None:
            source = status.Get_source()
            sizes = bytearray(status.Get_count(self._mpi.BYTE))
            first.Recv((sizes, self._mpi.BYTE))
            parts = [memoryview(bytearray(n)) for n in struct.unpack(f"{len(sizes) // 8}q", sizes)]
            receiving = _Receiving(parts)
            self._receiving.setdefault(source, deque()).append(receiving)
            for piece in _pieces(parts):
                receiving.requests.append(self._comm.Irecv((piece, self._mpi.BYTE), source))

    def _received(self, source: int) -> list[Any]:
        """Whole messages of a rank, in order."""
        messages: list[Any] = []
        waiting = self._receiving[source]
        try:
            while waiting and waiting[0].is_done():
                data, *buffers = waiting.popleft().parts
                messages.append(self._pickle.loads_oob(data, buffers))
        except self._mpi.Exception as error:
            waiting.clear()
            self._look_for_gone(error)
        if not waiting:  # a look at what has arrived must not take longer the more ranks there are
            del self._receiving[source]
        return messages

    def _forget_sent(self) -> None:
        for _ in range(len(self._sending)):
            sending = self._sending.popleft()
            try:
                if sending.to not in self._gone and not sending.is_done():
                    self._sending.append(sending)
            except self._mpi.Exception as error:
                self._look_for_gone(error)

    def _look_for_gone(self, error: Exception) -> None:
        """Find out which ranks an error of MPI is about; one that is not about a lost rank is raised."""
        mpi = self._mpi
        ulfm = (mpi.ERR_PROC_FAILED, mpi.ERR_PROC_FAILED_PENDING, mpi.ERR_REVOKED)
        if not self.survives_loss or error.Get_error_class() not in ulfm:  # type: ignore[attr-defined]
            raise error
        self._comm.Ack_failed()
        failed, ours = self._comm.Get_failed(), self._comm.Get_group()
        ranks = failed.Translate_ranks(list(range(failed.Get_size())), ours)
        for rank in sorted(set(ranks) - self._gone):
            self._gone.add(rank)
            self._arrived_here.append(Envelope(rank, RankLost(GONE)))


class _Sending:
    """Parts on their way to a rank; what they are made of lives until then."""

    def __init__(self, to: int):
        self.to = to
        self._requests: list[tuple[Any, Any]] = []

    def add(self, request: Any, piece: Any) -> None:
        self._requests.append((request, piece))

    def is_done(self) -> bool:
        self._requests = [(request, piece) for request, piece in self._requests if not request.Test()]
        return not self._requests


class _Receiving:
    """Parts on their way from a rank."""

    def __init__(self, parts: list[memoryview]):
        self.parts = parts
        self.requests: list[Any] = []

    def is_done(self) -> bool:
        self.requests = [request for request in self.requests if not request.Test()]
        return not self.requests


def survives_loss() -> bool:
    """Whether this Open MPI was started so that the others go on when a process is gone."""
    return os.environ.get(FT_VARIABLE, "").lower() in ("1", "true", "yes", "ulfm")


def _pieces(parts: Sequence[memoryview]) -> list[memoryview]:
    return [part[i : i + PIECE_BYTES] for part in parts for i in range(0, part.nbytes, PIECE_BYTES)]
