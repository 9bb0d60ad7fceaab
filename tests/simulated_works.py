"""Works with given durations on simulated ranks, through the real search, pool and their messages."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from disttune.quantize.work import Work
from disttune.runtime.listener import Silent
from disttune.runtime.messages import Envelope, OpenFile, RunTask, ToAgent, ToMaster
from disttune.runtime.records import Record
from disttune.runtime.search import Search
from disttune.runtime.start_messages import Host
from disttune.runtime.transport.simulated import SimulatedRun, SimulatedTransport
from disttune.runtime.work_messages import GoOn, KeepResult, NeedsWorks, ResultKept, RunWork, WorkDone
from disttune.runtime.works import Works
from disttune.schedule.exit_policy import ExitPolicy
from disttune.schedule.outcome import Outcome
from disttune.strategy.stage import Stage
from tests.simulated import Listed, SimulatedJob, small_space

MESSAGE_S = 100e-6  # of a work's messages; bench_works measures about a millisecond for all of them


@dataclass(frozen=True)
class TimedWorks:
    """Works of one candidate and what they take.

    Args:
        works: in the order in which an engine asks for them.
        seconds: of each, by key, on a rank that has measured its place.
        place_seconds: of measuring a place, which each rank that works there does once.
    """

    works: Sequence[Work]
    seconds: Mapping[str, float]
    place_seconds: Mapping[str, float] = field(default_factory=dict)

    def bound_s(self, n_ranks: int) -> float:
        """No order is faster: all seconds over the ranks, the longest chain, the most works that one has."""
        total = sum(self.seconds.values()) + sum(self.place_seconds.values())
        until: dict[str, float] = {}
        for work in self.works:  # those that a work needs come before it
            before = max((until[need] for need in work.needs), default=0.0)
            until[work.key] = before + self.seconds[work.key]
        each = sorted(self.seconds.values(), reverse=True)
        # Of k n + 1 works one rank has k + 1, at least the shortest of them.
        crowded = (
            sum(each[k * n_ranks - k : k * n_ranks + 1]) for k in range(1, (len(each) - 1) // n_ranks + 1)
        )
        return max(total / n_ranks, *until.values(), *crowded)


class Durable:
    """A journal that is on disk at once."""

    durable = 0

    def append(self, record: Record) -> int:
        self.durable += 1
        return self.durable


class WorkingRanks(SimulatedTransport):
    """Ranks that do works; the one that has the candidate asks for them, level by level."""

    def __init__(self, n_ranks: int, timed: TimedWorks):
        super().__init__(n_ranks, lambda *_: SimulatedRun(Outcome("ok", (0.5,), None, "m", 1, 1), 0.0, 0.0))
        self.done_by: dict[str, int] = {}
        self.ended_s = 0.0
        self._timed = timed
        self._measured: set[tuple[int, str]] = set()
        self._learnt: set[str] = set()
        self._task: RunTask | None = None

    def send(self, to: int, message: ToAgent | ToMaster) -> None:
        match message:
            case RunTask():
                self._task = message
                self._ask(to)
            case GoOn():
                self._learnt |= self.done_by.keys()
                self._ask(to)
            case RunWork():
                seconds = self._takes(to, message.work)
                self.done_by[message.work.key] = to
                self._events.put(self.now_s() + seconds, Envelope(to, WorkDone(message.work.key, {})))
            case KeepResult():
                kept = ResultKept(message.key, OpenFile(100, 7), b"n" * 16)
                self._events.put(self.now_s() + MESSAGE_S, Envelope(to, kept))
            case _:
                super().send(to, message)

    def _ask(self, rank: int) -> None:
        assert self._task is not None
        missing = [work for work in self._timed.works if work.key not in self._learnt]
        ready = tuple(work for work in missing if self._learnt.issuperset(work.needs))
        if ready:
            message = NeedsWorks(self._task.assignment, ready)
            self._events.put(self.now_s() + MESSAGE_S, Envelope(rank, message))
        else:
            assert not missing
            self.ended_s = self.now_s()
            super().send(rank, self._task)

    def _takes(self, rank: int, work: Work) -> float:
        seconds = self._timed.seconds[work.key] + MESSAGE_S
        if (rank, work.place) not in self._measured:
            self._measured.add((rank, work.place))
            seconds += self._timed.place_seconds.get(work.place, 0.0)
        return seconds


def finished(timed: TimedWorks, n_ranks: int) -> WorkingRanks:
    """The ranks after one candidate has got all its works."""
    hosts = {rank: Host("a", "a", 100 + rank, (0,), 1, "cpu") for rank in range(n_ranks)}
    transport = WorkingRanks(n_ranks, timed)
    stage = Stage("all", [small_space().default_candidate()])
    job = SimulatedJob(lambda: Listed(stage), small_space(), lambda _: 0.0, policy=ExitPolicy("budget"))
    works = Works(hosts, transport.send, lambda _: None, lambda _: None)
    search = Search(job.scheduler(), transport, Durable(), Silent(), 1e9, works=works)
    search.start()
    for rank in range(n_ranks):
        search.join(rank, "a")
    while not search.done:
        for envelope in transport.receive(0.25):
            assert isinstance(envelope.message, ToMaster)
            search.receive(envelope.source, envelope.message)
            search.poll()
    return transport


def seconds_with(timed: TimedWorks, n_ranks: int) -> float:
    """Until one candidate has got all its works."""
    return finished(timed, n_ranks).ended_s
