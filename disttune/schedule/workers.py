"""Which ranks are idle, which node they share, and which node is kept free for a task that runs alone.

Pure. Every operation takes time independent of the number of ranks.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass
class Node:
    """The ranks of one machine; `kept` while a task waits to run, or runs, alone there."""

    ranks: set[int] = field(default_factory=set)
    busy: set[int] = field(default_factory=set)
    kept: bool = False


class Workers:
    def __init__(self) -> None:
        self._node_of: dict[int, Node] = {}
        self._nodes: dict[str, Node] = {}
        self._idle: dict[int, None] = {}  # ordered: the rank that is idle longest comes first

    def __len__(self) -> int:
        return len(self._node_of)

    def __contains__(self, rank: int) -> bool:
        return rank in self._node_of

    def join(self, rank: int, node: str) -> None:
        self._node_of[rank] = self._nodes.setdefault(node, Node())
        self._node_of[rank].ranks.add(rank)
        self._idle[rank] = None

    def lose(self, rank: int) -> Node:
        node = self._node_of.pop(rank)
        node.ranks.discard(rank)
        node.busy.discard(rank)
        self._idle.pop(rank, None)
        return node

    def take(self, rank: int) -> None:
        del self._idle[rank]
        self._node_of[rank].busy.add(rank)

    def release(self, rank: int) -> None:
        self._node_of[rank].busy.discard(rank)
        self._idle[rank] = None

    def idle(self) -> Iterator[int]:
        """Ranks that may take a task now, longest idle first; none of a node that is kept free."""
        return (rank for rank in list(self._idle) if not self._node_of[rank].kept)

    def is_alone(self, rank: int) -> bool:
        """Whether no other rank shares this one's node."""
        return len(self._node_of[rank].ranks) == 1

    def keep_a_node_free(self) -> Node | None:
        """The node of the rank that is idle longest gets no more tasks until `kept` is unset."""
        rank = next(iter(self._idle), None)
        if rank is None:
            return None
        node = self._node_of[rank]
        node.kept = True
        return node
