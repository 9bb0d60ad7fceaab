"""The works of a search on their way: from the rank that needs one over the one that does it to all nodes.

Pure but for what it sends. Rank 0's agent keeps every result in a memory file; a node gets those that its
ranks need, each once. A rank is told a result before anything that needs it, each time: its engine may have
forgotten it since.
"""

from collections.abc import Callable, Iterable, Mapping

from disttune.quantize.work import Work
from disttune.runtime.messages import OpenFile, ToAgent, ToMaster
from disttune.runtime.result_cache import ResultCache
from disttune.runtime.sharing import Addressed, Sharing
from disttune.runtime.start_messages import HaveFile, Host, NeedFile
from disttune.runtime.work_messages import (
    CancelWork,
    GoOn,
    KeepResult,
    NeedsWorks,
    ResultKept,
    RunWork,
    UseResult,
    WorkDied,
    WorkDone,
)
from disttune.runtime.work_pool import Asker, WorkPool

FIRST_TOLD_S = 2.0  # works that take less are not worth a line
TOLD_EVERY_S = 10.0
DOING = {
    "statistics": "calibrating variants of the model",
    "channels": "measuring channels",
    "means": "measuring the inputs of layers",
    "shifts": "correcting biases level by level",
    "solve": "solving layers",
}


class Works:
    """The works of one job.

    Args:
        hosts: of every rank.
        send: sends a message to an agent.
        tell: takes lines about how far it is.
        warn: takes what the user should read once.
        cache: keeps results for a resume; None where nothing is kept.
    """

    def __init__(
        self,
        hosts: Mapping[int, Host],
        send: Callable[[int, ToAgent], None],
        tell: Callable[[str], None],
        warn: Callable[[str], None],
        cache: ResultCache | None = None,
    ):
        self._hosts = hosts
        self._send = send
        self._tell = tell
        self._warn = warn
        self._cache = cache
        self._in_cache: list[str] = []  # keys of results that are to be read
        self._pool = WorkPool()
        self._shared: dict[str, Sharing] = {}
        self._export_can_go_on = False
        self._told_s: float | None = None

    @property
    def waiting(self) -> frozenset[int]:
        """Ranks with a trial or a probe that waits: their trial process can take a work."""
        return frozenset(asker.rank for asker in self._pool.waiting if asker.assignment is not None)

    @property
    def wait_for_hands(self) -> bool:
        """Whether `hand_out` has anything to do."""
        return self._pool.queues or bool(self._in_cache)

    @property
    def export_waits(self) -> bool:
        return any(asker.assignment is None for asker in self._pool.waiting)

    def receive(self, source: int, message: ToMaster) -> bool:
        """Take in a message; whether it was one about works."""
        match message:
            case NeedsWorks():
                self._pool.ask(Asker(source, message.assignment), message.works)
            case WorkDone():
                self._done(source, message)
            case WorkDied():
                self._pool.died(source, message.key, message.reason)
            case ResultKept():
                self._kept(message)
            case NeedFile() if message.name in self._shared:
                self._post(self._shared[message.name].needs(source))
            case HaveFile() if message.name in self._shared:
                self._post(self._shared[message.name].has(source, message.file))
            case _:
                return False
        self._go_on()
        return True

    def hand_out(self, free: Iterable[int]) -> None:
        """Give works to ranks whose trial process is idle; what an earlier session has kept is not done."""
        self._look_into_cache()
        for rank, work in self._pool.hand_out(free):
            for key in work.needs:
                self._send_result(rank, key)
            self._send(rank, RunWork(work))

    def take_export(self) -> bool:
        """Whether rank 0 has since been sent what its export waited for."""
        can_go_on, self._export_can_go_on = self._export_can_go_on, False
        return can_go_on

    def drop_export(self) -> None:
        """Nobody waits for the export any more."""
        self._cancel(self._pool.withdraw(Asker(0, None)))

    def withdraw(self, rank: int, assignment: int) -> None:
        """An assignment is cancelled: what it alone waits for is not done."""
        self._cancel(self._pool.withdraw(Asker(rank, assignment)))

    def lose(self, rank: int) -> None:
        """A rank is gone: others do its work."""
        self._pool.lost(rank)
        self._go_on()  # it may have been the third over a work
        for sharing in self._shared.values():
            self._post(sharing.lose(rank))

    def stop(self) -> None:
        """The search is over: end what runs, but for what the export needs."""
        self._cancel(self._pool.stop())

    def close(self) -> None:
        """Write what is to be kept for a resume."""
        if self._cache is not None:
            self._cache.close()
            self._complain()

    def report(self, now_s: float) -> None:
        """Tell how far it is, now and then; to be called about once a second."""
        self._complain()
        if self._told_s is None and self._pool.running:
            self._told_s = now_s - TOLD_EVERY_S + FIRST_TOLD_S
        if self._told_s is None or now_s - self._told_s < TOLD_EVERY_S:
            return
        if progress := self._pool.progress:
            self._told_s = now_s
            doing = DOING.get(progress.kind, f"works ({progress.kind})")
            self._tell(f"{doing}: {progress.n_settled} of {progress.n_all} ({progress.what})")

    def _look_into_cache(self) -> None:
        """Read one result at a time: others wait for the master as well."""
        if self._cache is None:
            return
        for key in self._pool.take_new():
            if self._cache.has(key):
                self._pool.found(key)
                self._in_cache.append(key)
        if self._in_cache:
            key = self._in_cache.pop(0)
            results = self._cache.load(key)
            self._complain()
            if results is None:
                self._pool.not_found(key)
            else:
                self._send(0, KeepResult(key, results))

    def _complain(self) -> None:
        for complaint in self._cache.take_complaints() if self._cache else ():
            self._warn(complaint)

    def _done(self, rank: int, message: WorkDone) -> None:
        if not self._pool.arrived(rank, message.key):
            return
        if message.results is None:
            if message.is_fault:
                self._warn(f"{message.reason}. See logs/rank-{rank}.log")
            self._pool.settle(message.key, message.reason)
        else:
            self._send(0, KeepResult(message.key, message.results))
            if self._cache is not None:
                self._cache.keep(message.key, message.results)

    def _kept(self, message: ResultKept) -> None:
        work = self._work(message.key)

        def tell(rank: int, source: OpenFile) -> ToAgent:  # noqa: ARG001
            return UseResult(work, source, message.nonce)

        self._shared[message.key] = Sharing(message.key, self._hosts, message.file, tell)
        self._pool.settle(message.key)

    def _go_on(self) -> None:
        for asker, keys in self._pool.take_satisfied():
            for key in keys:
                self._send_result(asker.rank, key)
            if asker.assignment is None:
                self._export_can_go_on = True
            else:
                self._send(asker.rank, GoOn(asker.assignment))

    def _send_result(self, rank: int, key: str) -> None:
        if key in self._shared:
            self._post([self._shared[key].offer(rank)])
        else:
            entry = self._pool.entry(key)
            assert entry is not None
            self._send(rank, UseResult(entry.work, reason=entry.reason))

    def _work(self, key: str) -> Work:
        entry = self._pool.entry(key)
        assert entry is not None
        return entry.work

    def _cancel(self, useless: list[tuple[int, str]]) -> None:
        for rank, key in useless:
            self._send(rank, CancelWork(key))

    def _post(self, messages: list[Addressed]) -> None:
        for addressed in messages:
            self._send(addressed.to, addressed.message)
