"""Getting every rank ready: who shares rank 0's replica, who needs a copy, who needs the user's files.

Pure but for the messages it returns. A node's first rank gets the replica's bytes; its other ranks open
that one's memory file.
"""

from collections import defaultdict
from dataclasses import dataclass, replace

from disttune.runtime.messages import Host, OpenFile, SendReplica, Setup, ToAgent


@dataclass(frozen=True, slots=True)
class Addressed:
    to: int
    message: ToAgent


class Nodes:
    """Which ranks have been set up, by node.

    Args:
        hosts: of every rank.
        n_threads: for each rank.
        setup: what rank 0 and its node get; other nodes get it with files.
        works: ranks that run trials.
    """

    def __init__(self, hosts: dict[int, Host], n_threads: dict[int, int], setup: Setup, works: set[int]):
        self._hosts = hosts
        self._n_threads = n_threads
        self._setup = setup
        self._works = works
        self._files: dict[str, bytes] | None = None
        self._fetching: set[str] = set()
        self._waiting: dict[str, list[int]] = defaultdict(list)
        self._local_copy: dict[str, OpenFile] = {}

    def home_ranks(self) -> list[int]:
        """Ranks that share rank 0's machine."""
        return [r for r in sorted(self._works | {0}) if self._hosts[r].node == self._hosts[0].node]

    def away_ranks(self) -> list[int]:
        return [r for r in sorted(self._works) if self._hosts[r].node != self._hosts[0].node]

    def set_up_home(self) -> list[Addressed]:
        return [Addressed(r, self._setup_for(r)) for r in self.home_ranks()]

    def set_up_away(self, files: dict[str, bytes]) -> list[Addressed]:
        self._files = files
        return [Addressed(r, self._setup_for(r)) for r in self.away_ranks()]

    def needs_replica(self, rank: int) -> list[Addressed]:
        """A rank could not open what it was named: fetch a copy for its node, once."""
        node = self._hosts[rank].node
        if node in self._local_copy:  # it could not open its own node's copy either: it gets one for itself
            return [Addressed(0, SendReplica(rank))]
        if node in self._fetching:
            self._waiting[node].append(rank)
            return []
        self._fetching.add(node)
        return [Addressed(0, SendReplica(rank))]

    def has_replica(self, rank: int, file: OpenFile) -> list[Addressed]:
        """A rank holds a copy that others of its node can open."""
        node = self._hosts[rank].node
        self._local_copy.setdefault(node, file)
        waiting = self._waiting.pop(node, [])
        return [Addressed(r, self._setup_for(r)) for r in waiting]

    def _setup_for(self, rank: int) -> Setup:
        host = self._hosts[rank]
        return replace(
            self._setup,
            n_threads=self._n_threads[rank],
            source=self._local_copy.get(host.node, self._setup.source),
            files=None if host.node == self._hosts[0].node else self._files,
        )
