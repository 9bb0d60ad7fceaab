"""Simulated time: what happens next, in order; of things at the same time, what was put in first.

Pure.
"""

import heapq
import itertools
from typing import Generic, TypeVar

T = TypeVar("T")


class Timeline(Generic[T]):
    """Things that will happen, each at its time in seconds."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, T]] = []
        self._counter = itertools.count()

    def __bool__(self) -> bool:
        """Whether anything is still to happen."""
        return bool(self._heap)

    @property
    def next_s(self) -> float:
        """When the next thing happens; there must be one."""
        return self._heap[0][0]

    def put(self, at_s: float, thing: T) -> None:
        heapq.heappush(self._heap, (at_s, next(self._counter), thing))

    def take(self) -> tuple[float, T]:
        """The next thing, and when it happens."""
        at_s, _, thing = heapq.heappop(self._heap)
        return at_s, thing

    def clear(self) -> None:
        self._heap.clear()
