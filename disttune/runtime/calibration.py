"""Spreading the statistics pass over the ranks: which rank measures which blocks of samples.

Pure. Blocks are the same for any number of ranks, and their parts are merged in order, so the statistics
are the same byte for byte. Several blocks that follow one another may be measured together, which costs
less than one by one: large shares first, small ones near the end, so that all ranks end at about the same
time. Blocks of a rank that is lost go to another.
"""

from collections import deque
from typing import Any

from disttune.config.errors import DisttuneError

MAX_LOSSES = 3  # ranks that may vanish over one block
MOST_BLOCKS = 8  # at once: what a rank that is lost takes with it


class Calibration:
    """Hands out blocks and gathers their parts.

    Args:
        n_blocks: at least 1.
        n_ranks: that are expected to measure, at least 1.
    """

    def __init__(self, n_blocks: int, n_ranks: int):
        self._waiting = deque(range(n_blocks))
        self._n_ranks = n_ranks
        self._idle: deque[int] = deque()
        self._running: dict[int, range] = {}  # blocks by rank
        self._losses = [0] * n_blocks
        self._parts: dict[int, Any] = {}  # by first block
        self._n_missing = n_blocks

    @property
    def complete(self) -> bool:
        return self._n_missing == 0

    @property
    def parts(self) -> list[Any]:
        """What was measured, in the order of blocks."""
        assert self.complete
        return [self._parts[first] for first in sorted(self._parts)]

    def join(self, rank: int) -> list[tuple[int, range]]:
        """A rank is ready; returns what to hand out, as (rank, blocks)."""
        self._idle.append(rank)
        return self._hand_out()

    def measured(self, rank: int, blocks: range, part: Any) -> list[tuple[int, range]]:
        """A rank has measured its blocks; returns what to hand out."""
        if self._running.get(rank) != blocks:
            return []  # it counts as lost
        del self._running[rank]
        self._parts[blocks.start] = part
        self._n_missing -= len(blocks)
        return self.join(rank)

    def lost(self, rank: int) -> list[tuple[int, range]]:
        """A rank is gone; returns what to hand out instead.

        Raises:
            DisttuneError: several ranks were lost over one block.
        """
        if rank in self._idle:
            self._idle.remove(rank)
        blocks = self._running.pop(rank, range(0))
        for block in reversed(blocks):
            self._losses[block] += 1
            if self._losses[block] >= MAX_LOSSES:
                raise DisttuneError(f"{MAX_LOSSES} ranks were lost while they calibrated block {block}")
            self._waiting.appendleft(block)
        return self._hand_out()

    def _hand_out(self) -> list[tuple[int, range]]:
        handed = []
        while self._idle and self._waiting:
            rank = self._idle.popleft()
            self._running[rank] = blocks = self._next_blocks()
            handed.append((rank, blocks))
        return handed

    def _next_blocks(self) -> range:
        """All of them to a single rank; else half a rank's share of what is left."""
        n_most = min(max(1, len(self._waiting) // (2 * self._n_ranks - 1)), MOST_BLOCKS)
        first = self._waiting.popleft()
        end = first + 1
        if not self._losses[first]:  # else it may be the one that costs ranks
            while end - first < n_most and self._waiting and self._waiting[0] == end:
                end = self._waiting.popleft() + 1
        return range(first, end)
