"""Spreading the statistics pass over the ranks: which rank measures which block of samples.

Pure. Blocks are the same for any number of ranks, and their parts are merged in order, so the statistics
are the same byte for byte. A block of a rank that is lost goes to another.
"""

from collections import deque
from typing import Any

from disttune.config.errors import DisttuneError

MAX_LOSSES = 3  # ranks that may vanish over one block


class Calibration:
    """Hands out blocks and gathers their parts.

    Args:
        n_blocks: at least 1.
    """

    def __init__(self, n_blocks: int):
        self._waiting = deque(range(n_blocks))
        self._idle: deque[int] = deque()
        self._running: dict[int, int] = {}  # block by rank
        self._losses = [0] * n_blocks
        self._parts: list[Any] = [None] * n_blocks
        self._n_missing = n_blocks

    @property
    def complete(self) -> bool:
        return self._n_missing == 0

    @property
    def parts(self) -> list[Any]:
        """What was measured, in the order of blocks."""
        assert self.complete
        return self._parts

    def join(self, rank: int) -> list[tuple[int, int]]:
        """A rank is ready; returns what to hand out, as (rank, block)."""
        self._idle.append(rank)
        return self._hand_out()

    def measured(self, rank: int, block: int, part: Any) -> list[tuple[int, int]]:
        """A rank has measured its block; returns what to hand out."""
        if self._running.get(rank) != block:
            return []  # it counts as lost
        del self._running[rank]
        self._parts[block] = part
        self._n_missing -= 1
        return self.join(rank)

    def lost(self, rank: int) -> list[tuple[int, int]]:
        """A rank is gone; returns what to hand out instead.

        Raises:
            DisttuneError: several ranks were lost over one block.
        """
        if rank in self._idle:
            self._idle.remove(rank)
        block = self._running.pop(rank, None)
        if block is None:
            return []
        self._losses[block] += 1
        if self._losses[block] >= MAX_LOSSES:
            raise DisttuneError(f"{MAX_LOSSES} ranks were lost while they calibrated block {block}")
        self._waiting.appendleft(block)
        return self._hand_out()

    def _hand_out(self) -> list[tuple[int, int]]:
        handed = []
        while self._idle and self._waiting:
            rank, block = self._idle.popleft(), self._waiting.popleft()
            self._running[rank] = block
            handed.append((rank, block))
        return handed
