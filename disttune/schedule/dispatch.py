"""Handing out: which idle worker gets which waiting item, and who runs what.

Pure. An item that ran out of time or memory runs once more alone: a node is kept free of new tasks until
it can start, and until it has ended.
"""

from collections.abc import Iterator

from disttune.config.errors import InternalError
from disttune.schedule.events import Assign, Cancel, Command
from disttune.schedule.splitting import SplitTrials
from disttune.schedule.stage_run import Entry, StageRun
from disttune.schedule.stragglers import Stragglers
from disttune.schedule.workers import Node, Workers


class Dispatch:
    """The workers and what each is running."""

    def __init__(self) -> None:
        self._workers = Workers()
        self._running: dict[int, Entry] = {}  # by rank; one that several run is there for each
        self._assignments: dict[int, int] = {}  # by rank
        self._n_entries = 0
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

    @property
    def n_entries(self) -> int:
        """What runs, each once."""
        return self._n_entries

    def lose(self, rank: int) -> tuple[Entry | None, Node | None]:
        """A rank is gone; returns what it was running, and its node."""
        if rank not in self._workers:
            return None, None
        return self._forget(rank), self._workers.lose(rank)

    def runs(self, entry: Entry) -> bool:
        """Whether some rank runs it."""
        return bool(entry.ranks)

    def answered(self, rank: int, assignment: int) -> Entry | None:
        """The entry that an answer is about; None for a late one (cancelled, or the rank counts as lost)."""
        return self._running[rank] if self._assignments.get(rank) == assignment else None

    def is_alone(self, rank: int) -> bool:
        """Whether no other rank shares this one's node."""
        return self._workers.is_alone(rank)

    def free(self, rank: int) -> None:
        """A rank has ended its task."""
        self._forget(rank)
        self._workers.release(rank)

    def cancel(self, entry: Entry, but: int | None = None) -> Iterator[Cancel]:
        """Stop an entry wherever it runs, but on this rank."""
        for rank in [rank for rank in entry.ranks if rank != but]:
            yield Cancel(rank, self._assignments[rank])
            self.free(rank)

    def cancel_all(self) -> Iterator[Command]:
        for entry in dict.fromkeys(self._running.values()):
            yield from self.cancel(entry)
            entry.step("cancelled")

    def help_stragglers(self, stragglers: Stragglers, now_s: float) -> Iterator[Command]:
        """Run once more, on workers that nothing else waits for, what they will probably end sooner."""
        if self._kept is not None or not 0 < len(self._running) < len(self._workers):
            return
        for rank, entry in stragglers.find(self._running.values(), self._workers.idle, now_s):
            yield self._begin(rank, entry)

    def help_with_parts(self, splits: SplitTrials, now_s: float) -> Iterator[Command]:
        """Let workers that nothing else waits for score parts of what others run."""
        if self._kept is not None or not 0 < len(self._running) < len(self._workers):
            return
        for rank, entry in splits.help(self._running.values(), self._workers.idle, now_s):
            yield self._begin(rank, entry)

    def hand_out(self, run: StageRun, now_s: float) -> Iterator[Command]:
        """Give idle workers what waits."""
        yield from self._hand_out_alone(run, now_s)
        if not run.waits:
            return
        for rank in self._workers.idle():
            entry = run.next_for(rank, others=len(self._workers) > 1)
            if entry is not None:
                yield self._assign(rank, entry, now_s)
            if not run.waits:
                return

    def check_invariants(self) -> None:
        for rank, entry in self._running.items():
            assert rank in self._workers
            assert rank in entry.ranks
            assert entry.state == "running"
        assert self._running.keys() == self._assignments.keys()
        assert len(set(map(id, self._running.values()))) == self._n_entries

    def _hand_out_alone(self, run: StageRun, now_s: float) -> Iterator[Command]:
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
            yield self._assign(min(self._kept.ranks), run.next_alone(), now_s)

    def _assign(self, rank: int, entry: Entry, now_s: float) -> Assign:
        entry.step("assigned")
        entry.started_s = now_s
        return self._begin(rank, entry)

    def _begin(self, rank: int, entry: Entry) -> Assign:
        entry.attempts += 1
        assignment = self._next_assignment
        self._next_assignment += 1
        self._workers.take(rank)
        self._n_entries += not entry.ranks
        entry.ranks.append(rank)
        self._running[rank] = entry
        self._assignments[rank] = assignment
        return Assign(rank, assignment, entry.task, entry.item, entry.attempts, entry.alone)

    def _forget(self, rank: int) -> Entry | None:
        """A rank no longer runs its entry, and others may."""
        entry = self._running.pop(rank, None)
        self._assignments.pop(rank, None)
        if entry is not None:
            entry.ranks.remove(rank)
            self._n_entries -= not entry.ranks
        return entry
