"""Transports: how messages travel between ranks. Each has `send`, `receive`, `now_s` and `close`."""

from collections.abc import Sequence
from typing import Protocol

from disttune.runtime.messages import Envelope, ToAgent, ToMaster


class Transport(Protocol):
    """Point-to-point messages between the ranks of a job; there are no collectives after start-up.

    `rank` and `size` are this process's place in the job; `survives_loss` tells whether the others can go on
    when a rank's process has ended (it comes as `RankLost` then).
    """

    rank: int
    size: int
    survives_loss: bool

    def send(self, to: int, message: ToAgent | ToMaster) -> None:
        """Hand a message over for delivery; does not wait. Messages to one rank arrive in order."""

    def receive(self, timeout_s: float, descriptors: Sequence[int] = ()) -> list[Envelope]:
        """Messages that have arrived; waits for one, for a readable descriptor, or for the time to pass."""

    def now_s(self) -> float:
        """Seconds on a clock that only goes forward."""

    def close(self) -> None:
        """Deliver what was sent, and leave."""
