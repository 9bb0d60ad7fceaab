"""How long a recorded job would take on other numbers of ranks, and where time would be lost.

Pure. The real scheduler decides; modelled are the ranks, the messages and the nodes that fail. The master
handles one message after the other. A node that fails takes its ranks with it, and they do not come back;
with rank 0's node the job ends and is resumed at once on all nodes, from the outcomes known until then.

Every second of every rank is one of: useful, start-up, messages, waiting, discarded, failures.
"""

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, replace

from disttune.config.errors import InputError, InternalError
from disttune.schedule.events import (
    Assign,
    Cancel,
    Combine,
    Command,
    Commit,
    Evaluate,
    Event,
    Finish,
    ModelBuilt,
    PartDone,
    Propose,
    Settle,
    Skip,
    TaskDone,
    TaskFailed,
    WorkerJoined,
    WorkerLost,
)
from disttune.schedule.known_outcomes import KnownOutcomes
from disttune.schedule.recorded_job import RecordedJob, RecordedRun
from disttune.schedule.timeline import Timeline
from disttune.space.candidate import Candidate
from disttune.strategy.stage import Probe

RUN_AGAIN = ("crashed", "timeout", "out_of_memory")  # how a trial process ends that gets a second attempt
MAX_FRUITLESS = 100  # starts in a row that measure nothing


@dataclass(frozen=True, slots=True)
class Cluster:
    """What a job is to run on.

    Args:
        n_ranks: of the job, all of them working.
        ranks_per_node: a node that fails takes so many with it.
        message_s: the master takes to handle a message.
        wire_s: a message takes from one rank to another.
        mtbf_hours: mean time between failures of one node; None for nodes that do not fail.
        noticed_s: until the master knows that a node has failed.
        seed: of the failures.
    """

    n_ranks: int
    ranks_per_node: int = 1
    message_s: float = 50e-6
    wire_s: float = 20e-6
    mtbf_hours: float | None = None
    noticed_s: float = 30.0
    seed: int = 0


@dataclass
class Forecast:
    """Time of a job and what became of the ranks' time, in seconds of all ranks together.

    Args:
        n_ranks: of the job.
        time_s: from start to end.
        useful_s: building and evaluating what was committed.
        startup_s: until the first trial, and from the last one to the end.
        messages_s: between the master's word and the work, and back.
        discarded_s: for items that were drawn ahead and then not needed.
        failures_s: of failed nodes, of what they were doing, and of the starts that followed.
        n_failures: nodes that failed.
        n_messages: that the master handled.
    """

    n_ranks: int
    time_s: float = 0.0
    useful_s: float = 0.0
    startup_s: float = 0.0
    messages_s: float = 0.0
    discarded_s: float = 0.0
    failures_s: float = 0.0
    n_failures: int = 0
    n_messages: int = 0

    @property
    def total_s(self) -> float:
        return self.n_ranks * self.time_s

    @property
    def waiting_s(self) -> float:
        """With nothing to do: at the ends of stages, or more ranks than items."""
        lost = self.startup_s + self.messages_s + self.discarded_s + self.failures_s
        return max(0.0, self.total_s - self.useful_s - lost)

    @property
    def efficiency(self) -> float:
        """Useful share of the ranks' time."""
        return self.share(self.useful_s)

    def share(self, seconds: float) -> float:
        """Of the time of all ranks."""
        return seconds / self.total_s if self.total_s else 0.0


def forecast(job: RecordedJob, cluster: Cluster) -> Forecast:
    """Run a recorded job on a cluster that it may not have seen.

    Raises:
        InputError: nodes fail so often that the job does not get on.
    """
    result = Forecast(cluster.n_ranks)
    known = KnownOutcomes()
    failures = _Failures(cluster)
    fruitless = 0
    while not (session := _Session(job, cluster, result, known, failures)).run():
        fruitless = 0 if session.n_settled else fruitless + 1
        if fruitless == MAX_FRUITLESS:
            raise InputError(
                f"with nodes that fail every {cluster.mtbf_hours:g} hours the job does not get on: "
                f"{MAX_FRUITLESS} starts in a row measured nothing"
            )
    return result


class _Failures:
    """When nodes fail: exponential, each by itself."""

    def __init__(self, cluster: Cluster):
        self._random = random.Random(cluster.seed)
        self._mtbf_s = cluster.mtbf_hours * 3600 if cluster.mtbf_hours else math.inf
        self._n_nodes = -(-cluster.n_ranks // cluster.ranks_per_node)

    def draw(self) -> Mapping[int, float]:
        """Seconds from now until each node fails, by node; nothing for nodes that never do."""
        if math.isinf(self._mtbf_s):
            return {}
        return {node: self._random.expovariate(1 / self._mtbf_s) for node in range(self._n_nodes)}


@dataclass(slots=True)
class _Run:
    """What a rank is doing."""

    assign: Assign
    recorded: RecordedRun
    began_s: float  # when the master gave the word
    worked_s: float = 0.0  # since then
    has_scored: bool = False


@dataclass(frozen=True, slots=True)
class _NodeFails:
    ranks: range
    at_s: float


class _Session:
    """One start of the job, until its end or until rank 0's node fails."""

    def __init__(
        self, job: RecordedJob, cluster: Cluster, result: Forecast, known: KnownOutcomes, failures: _Failures
    ):
        self._job = job
        self._cluster = cluster
        self._result = result
        self._known = known
        self._scheduler = job.scheduler(known, cluster.n_ranks)
        self._is_first = result.time_s == 0.0
        self._began_s = result.time_s
        self._clock_s = result.time_s  # of the master: when it is free
        self._events = Timeline[Event | _NodeFails]()
        self._running: dict[int, _Run] = {}
        self._dead: dict[int, float] = {}  # rank to the time of its death
        self._worked_s: dict[int, float] = {}  # by task, until it is committed
        self._parts_s: dict[int, float] = {}  # by task, of split trials, until all blocks are scored
        self.n_settled = 0
        for rank in range(cluster.n_ranks):
            joins_s = self._began_s + job.startup_s
            node = rank // cluster.ranks_per_node
            self._events.put(joins_s, WorkerJoined(rank, str(node), joins_s))
        for node, after_s in failures.draw().items():
            ranks = range(
                node * cluster.ranks_per_node, min(cluster.n_ranks, (node + 1) * cluster.ranks_per_node)
            )
            self._events.put(self._began_s + after_s, _NodeFails(ranks, self._began_s + after_s))

    def run(self) -> bool:
        """Go on to the end; False when the job has to be resumed."""
        while self._events and not self._scheduler.finished:
            at_s, event = self._events.take()
            if isinstance(event, _NodeFails):
                self._result.n_failures += 1
                if 0 in event.ranks:
                    self._break_off(at_s)
                    return False
                self._fail(event.ranks, at_s)
            elif self._arrives(event):
                self._clock_s = max(at_s, self._clock_s) + self._cluster.message_s
                self._result.n_messages += 1
                self._handle(event)
        if not self._scheduler.finished:
            raise InternalError(f"the forecast for {self._cluster.n_ranks} ranks came to no end")
        self._result.startup_s += self._job.closing_s * self._cluster.n_ranks
        self._end(self._clock_s + self._job.closing_s)
        return True

    # Ranks

    def _handle(self, event: Event) -> None:
        if isinstance(event, PartDone):
            self._scored(self._running[event.rank])
        elif isinstance(event, TaskDone | TaskFailed):
            self._answered(self._running.pop(event.rank))
        elif isinstance(event, WorkerLost):
            self._running.pop(event.rank, None)
        for command in self._scheduler.handle(replace(event, now_s=self._clock_s)):
            self._act(command)

    def _arrives(self, event: Event) -> bool:
        if isinstance(event, TaskDone | TaskFailed | ModelBuilt | PartDone):
            run = self._running.get(event.rank)
            is_current = run is not None and run.assign.assignment == event.assignment
            return is_current and event.rank not in self._dead
        return not (isinstance(event, WorkerJoined) and event.rank in self._dead)

    def _act(self, command: Command) -> None:
        match command:
            case Assign():
                self._start(command)
            case Evaluate(blocks=range() as blocks):
                self._score(self._running[command.rank], blocks)
            case Combine():
                run = self._running[command.rank]
                run.worked_s += self._parts_s.pop(run.assign.task)
                run.began_s -= run.worked_s  # on all ranks, and accounted for so far
                self._answer(run, self._clock_s, command.packed)
            case Evaluate():
                run = self._running[command.rank]
                run.worked_s += run.recorded.evaluation_s
                self._answer(run, self._clock_s + run.recorded.evaluation_s, command.packed)
            case Skip():
                run = self._running.pop(command.rank)
                self._built_to_help(run)
                self._answered(run)
            case Cancel():
                run = self._running.pop(command.rank)
                if command.rank not in self._dead:
                    self._result.discarded_s += self._clock_s - run.began_s
            case Propose():  # a number is given again after what was drawn ahead was dropped
                self._result.discarded_s += self._worked_s.pop(command.task, 0.0)
                self._result.discarded_s += self._parts_s.pop(command.task, 0.0)
            case Settle():
                self._settled(command)
            case Commit():
                self._result.useful_s += self._worked_s.pop(command.trial.number, 0.0)
            case Finish():
                self._result.discarded_s += sum(self._worked_s.values())
                self._result.discarded_s += sum(self._parts_s.values())
                self._worked_s.clear()
            case _:
                pass

    def _start(self, assign: Assign) -> None:
        recorded = self._job.run_of(assign.item)
        run = self._running[assign.rank] = _Run(assign, recorded, self._clock_s, recorded.build_s)
        built_s = self._clock_s + self._job.handover_s + recorded.build_s
        if recorded.model_digest is None or recorded.status in RUN_AGAIN:
            run.worked_s += recorded.evaluation_s
            self._answer(run, built_s + recorded.evaluation_s)
        else:
            at_s = built_s + 2 * self._cluster.wire_s
            event = ModelBuilt(assign.rank, assign.assignment, recorded.model_digest, at_s)
            self._events.put(at_s, event)

    def _answer(self, run: _Run, done_s: float, packed: bool = False) -> None:
        assign, at_s = run.assign, done_s + 2 * self._cluster.wire_s
        is_violent = run.recorded.status in RUN_AGAIN and isinstance(assign.item, Candidate)
        outcome = self._job.outcome(assign.item, packed)
        outcome = replace(outcome, seconds=run.worked_s, rank=assign.rank)
        self._events.put(
            at_s,
            (TaskFailed if is_violent else TaskDone)(assign.rank, assign.assignment, outcome, at_s),
        )

    def _score(self, run: _Run, blocks: range) -> None:
        """A part of an evaluation."""
        assign = run.assign
        seconds = run.recorded.evaluation_s * len(blocks) / self._job.splitting.n_blocks
        overhead_s = None
        if not run.has_scored:
            run.has_scored, overhead_s = True, run.recorded.build_s
            self._built_to_help(run)
            self._parts_s.setdefault(assign.task, 0.0)
        run.worked_s += seconds
        at_s = self._clock_s + seconds + 2 * self._cluster.wire_s
        self._events.put(at_s, PartDone(assign.rank, assign.assignment, seconds, overhead_s, at_s))

    def _built_to_help(self, run: _Run) -> None:
        """A model that another rank has built as well is no work that the trial needs."""
        if run.assign.task in self._parts_s:
            self._result.discarded_s += run.worked_s
            run.began_s += run.worked_s
            run.worked_s = 0.0

    def _scored(self, run: _Run) -> None:
        """What a part took is accounted for."""
        self._result.messages_s += self._clock_s - run.began_s - run.worked_s
        self._parts_s[run.assign.task] += run.worked_s
        run.began_s, run.worked_s = self._clock_s, 0.0

    def _answered(self, run: _Run) -> None:
        """What was not work of the time since the master's word went into messages."""
        self._result.messages_s += self._clock_s - run.began_s - run.worked_s
        task = run.assign.task
        self._worked_s[task] = self._worked_s.get(task, 0.0) + run.worked_s

    def _settled(self, command: Settle) -> None:
        self.n_settled += 1
        self._known.settled(command)
        if isinstance(command.item, Probe):
            self._result.useful_s += self._worked_s.pop(command.task, 0.0)

    # Nodes

    def _fail(self, ranks: range, at_s: float) -> None:
        for rank in ranks:
            self._dead[rank] = at_s
            noticed_s = at_s + self._cluster.noticed_s
            self._events.put(noticed_s, WorkerLost(rank, noticed_s))
            if rank in self._running:
                self._result.failures_s += at_s - self._running[rank].began_s

    def _break_off(self, at_s: float) -> None:
        """All ranks end; what was settled is known to the next session."""
        self._clock_s = at_s
        alive = (run for rank, run in self._running.items() if rank not in self._dead)
        self._result.failures_s += sum(at_s - run.began_s for run in alive)
        self._result.useful_s += sum(self._worked_s.values())
        self._result.failures_s += sum(self._parts_s.values())
        self._end(at_s)

    def _end(self, at_s: float) -> None:
        result = self._result
        result.time_s = at_s
        result.failures_s += sum(at_s - died_s for died_s in self._dead.values())
        startup_s = min(self._job.startup_s, at_s - self._began_s) * self._cluster.n_ranks
        if self._is_first:
            result.startup_s += startup_s
        else:
            result.failures_s += startup_s
