"""Handing out: which idle worker gets which waiting item, and who runs what.

Pure. An item that ran out of time or memory runs once more alone: a node is kept free of new tasks until
it can start, and until it has ended.
"""

from collections.abc import Iterator

from disttune.config.errors import InternalError
from disttune.schedule.events import Assign, Cancel, Command
from disttune.schedule.stage_run import Entry, StageRun
from disttune.schedule.workers import Node, Workers


class Dispatch:
    """The workers and what each is running."""

    def __init__(self) -> None:
        self._workers = Workers()
        self._running: dict[int, Entry] = {}  # by rank
        self._kept: Node | None = None
        self._next_assignment = 0

    @property
    def n_workers(self) -> int:
        return len(self._workers)

    @property
    def n_running(self) -> int:
        return len(self._running)

    def join(self, rank: int, node: str) -> None:
        """A rank is ready.

        Raises:
            InternalError: it joined before.
        """
        if rank in self._workers:
            raise InternalError(f"rank {rank} joined twice")
        self._workers.join(rank, node)

    def lose(self, rank: int) -> Entry | None:
        """A rank is gone; returns what it was running."""
        if rank not in self._workers:
            return None
        self._workers.lose(rank)
        return self._running.pop(rank, None)

    def answered(self, rank: int, assignment: int) -> Entry | None:
        """The entry that an answer is about; None for a late one (cancelled, or the rank counts as lost)."""
        entry = self._running.get(rank)
        return entry if entry is not None and entry.assignment == assignment else None

    def is_alone(self, rank: int) -> bool:
        """Whether no other rank shares this one's node."""
        return self._workers.is_alone(rank)

    def free(self, rank: int) -> None:
        """A rank has ended its task."""
        del self._running[rank]
        self._workers.release(rank)

    def cancel(self, entry: Entry) -> Iterator[Command]:
        """Stop an entry where it runs."""
        if entry.rank is not None and entry.assignment is not None:
            yield Cancel(entry.rank, entry.assignment)
            self.free(entry.rank)

    def cancel_all(self) -> Iterator[Command]:
        for entry in list(self._running.values()):
            yield from self.cancel(entry)
            entry.step("cancelled")

    def hand_out(self, run: StageRun) -> Iterator[Command]:
        """Give idle workers what waits."""
        yield from self._hand_out_alone(run)
        if not run.waits:
            return
        for rank in self._workers.idle():
            entry = run.next_for(rank, others=len(self._workers) > 1)
            if entry is not None:
                yield self._assign(rank, entry)
            if not run.waits:
                return

    def check_invariants(self) -> None:
        assert all(rank in self._workers and e.rank == rank for rank, e in self._running.items())

    def _hand_out_alone(self, run: StageRun) -> Iterator[Command]:
        if self._kept is not None and not self._kept.ranks:
            self._kept = None  # the whole node was lost
        if self._kept is not None and not self._kept.busy and not run.waits_alone:
            self._kept.kept = False
            self._kept = None
        if not run.waits_alone:
            return
        if self._kept is None:
            self._kept = self._workers.keep_a_node_free()
        if self._kept is not None and not self._kept.busy:
            yield self._assign(min(self._kept.ranks), run.next_alone())

    def _assign(self, rank: int, entry: Entry) -> Assign:
        entry.step("assigned")
        entry.attempts += 1
        entry.rank = rank
        entry.assignment = self._next_assignment
        self._next_assignment += 1
        self._workers.take(rank)
        self._running[rank] = entry
        return Assign(rank, entry.assignment, entry.task, entry.item, entry.attempts, entry.alone)
