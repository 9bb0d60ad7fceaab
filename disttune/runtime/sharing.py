"""Sharing a memory file of rank 0 with every rank: one copy for each other node.

Pure but for the messages it returns. A rank first tries to open what it is named; where that fails, its
node is another one: the node's first rank gets the bytes from rank 0, the others open that rank's copy.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from disttune.runtime.messages import OpenFile, ToAgent
from disttune.runtime.start_messages import Host, SendFile

REPLICA, STATISTICS = "replica", "statistics"  # names of files that every rank gets


@dataclass(frozen=True, slots=True)
class Addressed:
    """A message and the rank it goes to."""

    to: int
    message: ToAgent


class Sharing:
    """Which rank opens which copy of one file.

    Args:
        name: of the file.
        hosts: of every rank.
        source: rank 0's.
        tell: makes the message that names a rank its copy.
    """

    def __init__(
        self,
        name: str,
        hosts: Mapping[int, Host],
        source: OpenFile,
        tell: Callable[[int, OpenFile], ToAgent],
    ):
        self._name = name
        self._hosts = hosts
        self._source = source
        self._tell = tell
        self._copies: dict[str, OpenFile] = {}  # by node
        self._fetching: dict[str, int] = {}  # rank by node
        self._waiting: dict[str, list[int]] = defaultdict(list)

    def offer(self, rank: int) -> Addressed:
        """Name a rank the copy that should be its node's."""
        return Addressed(rank, self._tell(rank, self._copies.get(self._hosts[rank].node, self._source)))

    def needs(self, rank: int) -> list[Addressed]:
        """A rank could not open what it was named."""
        node = self._hosts[rank].node
        if node in self._fetching and node not in self._copies:
            self._waiting[node].append(rank)
            return []
        self._fetching[node] = rank  # with its node's copy out of reach, a rank gets one for itself
        return [Addressed(0, SendFile(self._name, rank))]

    def has(self, rank: int, file: OpenFile) -> list[Addressed]:
        """A rank holds a copy; those of its node that wait for it can open it."""
        node = self._hosts[rank].node
        self._copies.setdefault(node, file)
        return [self.offer(r) for r in self._waiting.pop(node, [])]

    def lose(self, rank: int) -> list[Addressed]:
        """A rank is gone: another of its node fetches what it was fetching."""
        node = self._hosts[rank].node
        waiting = self._waiting[node]
        if rank in waiting:
            waiting.remove(rank)
        if node in self._copies and self._copies[node].pid == self._hosts[rank].pid:
            del self._copies[node]
            self._fetching.pop(node, None)
        if self._fetching.get(node) == rank and node not in self._copies:
            del self._fetching[node]
            return self.needs(waiting.pop(0)) if waiting else []
        return []
