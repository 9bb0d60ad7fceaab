"""Which rank does which work: everything that candidates wait for, done once, by whoever is free.

Pure. A work is queued, runs on a rank, has arrived (its result is being kept) and is settled; a settled one
is never done again. The order of doing has no influence on results, so that the pool may go by what is
quick: a rank goes on where it has been (works of a `place` share measurements), longest first; then it goes
to the place with most left to do of those where nobody works, and in the end to one where others do.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from disttune.config.errors import InternalError
from disttune.quantize.work import Work

MAX_DEATHS = 3  # trial processes that may end over one work


@dataclass(frozen=True, slots=True)
class Asker:
    """Who waits for works: an assignment of a rank, or its export (None)."""

    rank: int
    assignment: int | None


@dataclass
class Entry:
    """A work that is known, and what has become of it.

    Args:
        work: as it was asked for.
        order: in which it was asked for.
        ended: ranks whose trial process ended over it, or that were lost.
        state: see the module.
        reason: why it has no result; only once it is settled.
    """

    work: Work
    order: int
    ended: list[int]
    state: Literal["queued", "running", "arrived", "settled"] = "queued"
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far works of one kind are.

    Args:
        kind: of the one that has been running for longest.
        what: that is.
        n_settled: of this kind.
        n_all: of this kind, as far as they are known.
    """

    kind: str
    what: str
    n_settled: int
    n_all: int


class WorkPool:
    """Takes in who needs what and what has become of it; says who does what next."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._queued: dict[str, Entry] = {}
        self._new: list[str] = []
        self._ended: dict[str, list[int]] = defaultdict(list)  # of dropped works, too
        self._n_asked = 0
        self._asked: dict[Asker, tuple[str, ...]] = {}
        self._open: dict[Asker, set[str]] = {}  # keys that each still waits for
        self._satisfied: list[Asker] = []
        self._running: dict[int, str] = {}  # key by rank
        self._places: dict[int, str] = {}  # of the last work, by rank

    def entry(self, key: str) -> Entry | None:
        """What is known of a work."""
        return self._entries.get(key)

    @property
    def queues(self) -> bool:
        """Whether works wait to be done, or to be looked up in the cache."""
        return bool(self._queued or self._new)

    @property
    def running(self) -> frozenset[int]:
        """Ranks that do a work."""
        return frozenset(self._running)

    @property
    def waiting(self) -> frozenset[Asker]:
        """Whose works are not all settled."""
        return frozenset(self._open)

    @property
    def progress(self) -> Progress | None:
        """How far it is; None while nothing runs."""
        if not self._running:
            return None
        work = self._entries[next(iter(self._running.values()))].work
        same = [e for e in self._entries.values() if e.work.kind == work.kind]
        return Progress(work.kind, work.what, sum(e.state == "settled" for e in same), len(same))

    def ask(self, asker: Asker, works: Sequence[Work]) -> None:
        """Somebody waits for these.

        Raises:
            InternalError: a work needs results that nobody has asked for.
        """
        for work in works:
            if unknown := [need for need in work.needs if need not in self._entries]:
                raise InternalError(f"{work.what} needs results that nobody has asked for: {unknown}")
        for work in works:
            if work.key not in self._entries:
                entry = Entry(work, self._n_asked, self._ended[work.key])
                self._entries[work.key] = self._queued[work.key] = entry
                self._new.append(work.key)
                self._n_asked += 1
        self._asked[asker] = tuple(work.key for work in works)
        left = {work.key for work in works if self._entries[work.key].state != "settled"}
        if left:
            self._open[asker] = left
        else:
            self._satisfied.append(asker)

    def take_new(self) -> list[str]:
        """Keys of works that are known since the last call and wait to be done."""
        new, self._new = self._new, []
        return [key for key in dict.fromkeys(new) if key in self._queued]

    def found(self, key: str) -> None:
        """A queued work need not be done: there is a result."""
        self._queued.pop(key).state = "arrived"

    def not_found(self, key: str) -> None:
        """There is none after all: it has to be done."""
        entry = self._entries[key]
        assert entry.state == "arrived"
        entry.state = "queued"
        self._queued[key] = entry

    def withdraw(self, asker: Asker) -> list[tuple[int, str]]:
        """Somebody waits no longer; returns rank and key of works that run for nobody any more."""
        return self._drop_unwanted(self._forget(asker))

    def stop(self) -> list[tuple[int, str]]:
        """Leave nothing to do but what exports wait for; returns rank and key of works that run."""
        for asker in (*self._open, *self._satisfied):
            if asker.assignment is not None:
                self._forget(asker)
        return self._drop_unwanted([*self._queued, *self._running.values()])

    def hand_out(self, free: Iterable[int]) -> list[tuple[int, Work]]:
        """Give works to ranks that can take one; returns who does what."""
        queued = self._queued
        taken = {self._places[r] for r in self._running}
        left: dict[str, float] = defaultdict(float)  # cost of what is queued, by place
        for entry in queued.values():
            left[entry.work.place] += entry.work.cost
        handed = []
        for rank in free:
            if not queued:
                break
            if rank in self._running:
                continue
            entry = min(queued.values(), key=partial(self._preference, rank, taken, left))
            del queued[entry.work.key]
            left[entry.work.place] -= entry.work.cost
            entry.state = "running"
            self._running[rank] = entry.work.key
            self._places[rank] = entry.work.place
            taken.add(entry.work.place)
            handed.append((rank, entry.work))
        return handed

    def arrived(self, rank: int, key: str) -> bool:
        """A rank has done its work; False when it is no longer its work: another one does it, or nobody."""
        if self._running.get(rank) != key:
            return False
        del self._running[rank]
        self._entries[key].state = "arrived"
        return True

    def settle(self, key: str, reason: str = "") -> None:
        """A result can be had by all, or there is a reason for none."""
        entry = self._entries[key]
        assert entry.state == "arrived"
        entry.state, entry.reason = "settled", reason
        for asker, left in list(self._open.items()):
            left.discard(key)
            if not left:
                del self._open[asker]
                self._satisfied.append(asker)

    def died(self, rank: int, key: str, why: str) -> None:
        """A rank's trial process ended over its work: another does it, unless that has happened too often."""
        if not self.arrived(rank, key):
            return
        entry = self._entries[key]
        entry.ended.append(rank)
        if len(entry.ended) >= MAX_DEATHS:
            self.settle(key, f"{entry.work.what} ended {MAX_DEATHS} trial processes; the last: {why}")
        else:
            entry.state = "queued"
            self._queued[key] = entry

    def lost(self, rank: int) -> None:
        """A rank is gone. What it waited for is left to do: its trial goes to another, which will ask."""
        if rank in self._running:
            self.died(rank, self._running[rank], f"rank {rank} was lost")
        for asker in (*self._open, *self._satisfied):
            if asker.rank == rank:
                self._forget(asker)
        self._places.pop(rank, None)

    def take_satisfied(self) -> list[tuple[Asker, tuple[str, ...]]]:
        """Who has everything it has asked for since the last call, and the keys of that."""
        satisfied, self._satisfied = self._satisfied, []
        return [(asker, self._asked.pop(asker)) for asker in satisfied]

    def check_invariants(self) -> None:
        """What must hold after every call."""
        for rank, key in self._running.items():
            assert self._entries[key].state == "running", (rank, key)
        n_running = sum(e.state == "running" for e in self._entries.values())
        assert n_running == len(self._running)
        for asker, left in self._open.items():
            assert left, asker
            assert all(self._entries[key].state != "settled" for key in left), asker
        for key, entry in self._entries.items():
            assert (entry.state == "queued") == (key in self._queued), key

    def _forget(self, asker: Asker) -> list[str]:
        """Drop one who asked; returns what it still waited for."""
        if asker in self._satisfied:
            self._satisfied.remove(asker)
        self._asked.pop(asker, None)
        return sorted(self._open.pop(asker, ()))

    def _drop_unwanted(self, keys: Sequence[str]) -> list[tuple[int, str]]:
        wanted = set().union(*self._open.values())
        useless = {k for k in keys if k not in wanted and self._entries[k].state in ("queued", "running")}
        ranks = [(rank, key) for rank, key in self._running.items() if key in useless]
        for key in useless:
            del self._entries[key]
            self._queued.pop(key, None)
        for rank, _ in ranks:
            del self._running[rank]
        return ranks

    def _preference(
        self, rank: int, taken: set[str], left: Mapping[str, float], entry: Entry
    ) -> tuple[bool, int, float, float, int]:
        place, cost = entry.work.place, entry.work.cost
        distance, moving = 1, cost
        if place:
            distance = 0 if place == self._places.get(rank) else 2 if place in taken else 1
            moving = left[place] if distance else 0.0
        return (rank in entry.ended, distance, -moving, -cost, entry.order)
