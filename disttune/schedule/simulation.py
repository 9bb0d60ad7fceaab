"""A simulated job: the real scheduler on any number of workers that need no time, with deaths and failures.

Pure. Virtual time comes from a timeline of events.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from disttune.config.goal import Goal, Objective
from disttune.schedule.course import Recording
from disttune.schedule.events import (
    Assign,
    Cancel,
    Combine,
    Command,
    Commit,
    Evaluate,
    Event,
    Finish,
    Interrupt,
    ModelBuilt,
    PartDone,
    Settle,
    Skip,
    TaskDone,
    TaskFailed,
    Tick,
    WorkerJoined,
    WorkerLost,
)
from disttune.schedule.exit_policy import ExitPolicy
from disttune.schedule.history import History
from disttune.schedule.known_outcomes import KnownOutcomes
from disttune.schedule.latency_window import KIND
from disttune.schedule.outcome import Outcome
from disttune.schedule.scheduler import Scheduler
from disttune.schedule.splitting import Splitting
from disttune.schedule.timeline import Timeline
from disttune.space.candidate import Candidate
from disttune.space.space import Space
from disttune.space.summary import ModelSummary, OpSummary
from disttune.strategy.stage import Item, Probe
from disttune.strategy.strategy import Strategy
from disttune.strategy.trial import Latency, Status, Trial
from disttune.strategy.tuning import Tuning

MODEL_BYTES = 1000


def _own_value(probe: Probe) -> Any:
    return probe.arguments.get("value")


@dataclass
class SimulatedJob:
    """Everything that decides a trial table.

    Args:
        strategy: makes the strategy.
        space: of the job.
        metric: of a candidate; an exception stands for an evaluation that raises.
        goal: target of the metric.
        policy: budgets and stops.
        model: digest of the model a candidate makes; by default its own digest.
        crash: candidates whose trial process always dies.
        timeout: candidates whose evaluation never ends.
        duration_s: of an item on a rank.
        objective: of the job.
        seed: of the job.
        summary: of the model; by default one op after the other, all alike.
        probe: value of a probe; an exception stands for a failed one.
        higher_is_better: direction of the metric.
        batch_size: of samplers.
        size_bytes: of a candidate's model.
        calibration_samples: sizes that the job lists.
        bounds: best that the metric of a candidate can still become, look after look.
        n_blocks: that an evaluation can be split into; 0: it cannot.
        n_ranks: that are going to join, as far as it is known at the start.
        build_s: until a model is built, before `duration_s`.
        evaluation_s: the float model's, as far as it is known at the start.
        latency: of a candidate's model, as a ratio to the float model's; an exception stands for a
            measurement that fails.
    """

    strategy: Callable[[], Strategy]
    space: Space
    metric: Callable[[Candidate], float]
    goal: float = 0.9
    policy: ExitPolicy = field(default_factory=ExitPolicy)
    model: Callable[[Candidate], str] = lambda c: c.digest
    crash: Callable[[Candidate], bool] = lambda _: False
    timeout: Callable[[Candidate], bool] = lambda _: False
    duration_s: Callable[[Item, int], float] = lambda _item, _rank: 1.0
    objective: str | Mapping[str, float] = "first"
    seed: int = 0
    summary: ModelSummary | None = None
    probe: Callable[[Probe], Any] = _own_value
    higher_is_better: bool = True
    batch_size: int = 16
    size_bytes: Callable[[Candidate], int] = lambda _: 100
    calibration_samples: tuple[int, ...] = ()
    latency: Callable[[Candidate], float] = lambda _: 1.0
    bounds: Callable[[Candidate], tuple[float, ...]] = lambda _: ()
    n_blocks: int = 0
    n_ranks: int = 1
    build_s: float = 0.0
    evaluation_s: float = 0.0

    def scheduler(self, recording: Recording | None = None) -> Scheduler:
        objectives = (Objective("accuracy", self.higher_is_better),)
        tuning = Tuning(
            self.space,
            self.summary or plain_summary(self.space),
            Goal(objectives, (self.goal,), "absolute", 0.0),
            self.seed,
            self.batch_size,
            self.policy.max_trials,
            self.calibration_samples,
        )
        splitting = Splitting(self.n_blocks, self.evaluation_s, self.n_ranks)
        return Scheduler(self.strategy(), History(tuning, self.objective), self.policy, recording, splitting)

    def outcome(self, item: Item) -> Outcome:
        """What comes of an item that ends by itself."""
        if isinstance(item, Probe):
            try:
                return Outcome("ok", value=self._probed(item))
            except Exception as error:
                return Outcome("failed", reason=str(error))
        measured = Outcome(
            "ok",
            model_digest=self.model(item),
            size_bytes=self.size_bytes(item),
            n_quantized=len(item.quantized_ops),
            bounds=self.bounds(item),
        )
        try:
            return replace(measured, values=(self.metric(item),))
        except Exception as error:
            return replace(measured, status="failed", reason=str(error))

    def _probed(self, probe: Probe) -> Any:
        if probe.kind != KIND or probe.candidate is None:
            return self.probe(probe)
        ratio = self.latency(probe.candidate)
        return asdict(Latency(ratio, spread=0.0, milliseconds=ratio, float_milliseconds=1.0))


@dataclass
class Simulation:
    """What came of it.

    Args:
        table: a tuple for each row, see `row`.
        finish: how it ended; None when it was cut.
        best: number of the best trial.
        known: all that was measured, for a resume.
        time_s: virtual.
        n_events: that the scheduler took in.
        n_evaluations: that were begun.
        n_stopped: evaluations that ended early.
        n_parts: of split evaluations, that were begun.
        busy_s: of all workers.
        commands: that the scheduler gave.
    """

    table: list[tuple[object, ...]] = field(default_factory=list)
    finish: Finish | None = None
    best: int | None = None
    known: KnownOutcomes = field(default_factory=KnownOutcomes)
    time_s: float = 0.0
    n_events: int = 0
    n_evaluations: int = 0
    n_stopped: int = 0
    n_parts: int = 0
    busy_s: float = 0.0
    commands: list[Command] = field(default_factory=list)


def plain_summary(space: Space) -> ModelSummary:
    """A model with the ops of a space, one after the other."""
    ops = tuple(OpSummary(name, space.types[name], (f"{name}_in",), (f"{name}_out",)) for name in space.ops)
    return ModelSummary(ops, ("x",), ("y",), 17, MODEL_BYTES, MODEL_BYTES // 4)


def row(trial: Trial) -> tuple[object, ...]:
    """What must be the same however a job is run."""
    return (
        trial.number, trial.stage, trial.candidate.digest, trial.status, trial.values, trial.meets_goal,
        trial.model_digest, trial.duplicate_of, trial.size_bytes, trial.n_quantized, trial.cancelled,
    )  # fmt: skip


def simulate(
    job: SimulatedJob,
    ranks: int = 1,
    lost: Mapping[int, float] | None = None,
    recording: Recording | None = None,
    nodes: int = 1,
    interrupt_at_s: float | None = None,
    check: bool = True,
    until_s: float = 1e9,
) -> Simulation:
    """Run a job to its end.

    Args:
        job: what to do.
        ranks: workers, all there from the beginning.
        lost: rank to the time of its death.
        recording: of an earlier run.
        nodes: that the ranks are spread over.
        interrupt_at_s: when to ask for an early end, without grace.
        check: whether the scheduler's invariants are checked after every event.
        until_s: when to cut the run.
    """
    return _Run(job, recording).run(ranks, lost or {}, nodes, interrupt_at_s, check, until_s)


class _Run:
    def __init__(self, job: SimulatedJob, recording: Recording | None):
        self._job = job
        self._scheduler = job.scheduler(recording)
        self._events = Timeline[Event]()
        self._running: dict[int, Assign] = {}
        self._worked_s: dict[int, float] = {}  # by task, all of its parts so far
        self._has_scored: set[int] = set()  # assignments
        self._result = Simulation()

    def run(
        self,
        ranks: int,
        lost: Mapping[int, float],
        nodes: int,
        interrupt_at_s: float | None,
        check: bool,
        until_s: float,
    ) -> Simulation:
        result, scheduler = self._result, self._scheduler
        for rank in range(ranks):
            self._events.put(0.0, WorkerJoined(rank, f"node-{rank % nodes}", 0.0))
        for rank, at_s in lost.items():
            self._events.put(at_s, WorkerLost(rank, at_s))
        if interrupt_at_s is not None:
            self._events.put(interrupt_at_s, Interrupt(interrupt_at_s, 0.0))
        if self._job.policy.timeout_s:
            self._events.put(self._job.policy.timeout_s, Tick(self._job.policy.timeout_s))
        while self._events and not scheduler.finished:
            now_s, event = self._events.take()
            if now_s > until_s:
                break
            result.time_s = now_s
            result.n_events += 1
            for command in scheduler.handle(event):
                self._act(command, now_s)
            if check:
                scheduler.check_invariants()
        best = scheduler.history.best
        result.best = best.number if best else None
        return result

    def _act(self, command: Command, now_s: float) -> None:
        result = self._result
        result.commands.append(command)
        match command:
            case Assign():
                self._running[command.rank] = command
                self._start(command, now_s)
            case Evaluate():
                self._evaluate(command, now_s)
            case Combine():
                self._answer(command.rank, self._worked_s[self._running[command.rank].task], now_s)
            case Skip() | Cancel():
                self._running.pop(command.rank, None)
            case Settle():
                result.known.settled(command)
            case Commit():
                result.table.append(row(command.trial))
            case Finish():
                result.finish = command
            case _:
                pass

    def _start(self, assign: Assign, now_s: float) -> None:
        item, rank = assign.item, assign.rank
        built_s = now_s + (self._job.build_s if isinstance(item, Candidate) else 0.0)
        self._result.busy_s += built_s - now_s
        if assign.attempt == 1:
            self._worked_s[assign.task] = 0.0
        status = self._violent_end(item)
        outcome = self._job.outcome(item)
        if (status is None or self._job.n_blocks) and outcome.model_digest is not None:
            self._events.put(built_s, ModelBuilt(rank, assign.assignment, outcome.model_digest, built_s))
            return
        seconds = self._job.duration_s(item, rank)
        self._result.busy_s += seconds
        done_s = built_s + seconds
        if status is not None:
            self._events.put(done_s, TaskFailed(rank, assign.assignment, Outcome(status, rank=rank), done_s))
        else:
            self._events.put(done_s, TaskDone(rank, assign.assignment, outcome, done_s))

    def _answer(self, rank: int, seconds: float, at_s: float, place: int | None = None) -> None:
        """An evaluation ends, at a bound if there is a place; its seconds are those of all parts."""
        assign = self._running[rank]
        outcome = replace(
            self._job.outcome(assign.item),
            seconds=self._job.build_s + seconds,
            evaluation_s=seconds,
            rank=rank,
        )
        if place is not None:
            self._result.n_stopped += 1
            outcome = replace(
                outcome, status="pruned", values=None, reason="", bounds=outcome.bounds[: place + 1]
            )
        self._events.put(at_s, TaskDone(rank, assign.assignment, outcome, at_s))

    def _evaluate(self, command: Evaluate, now_s: float) -> None:
        """All of it or a part, which a failure or violent end shows in, too."""
        assign, blocks = self._running[command.rank], command.blocks
        seconds = self._job.duration_s(assign.item, command.rank)
        place = command.stop.first_hopeless(self._job.outcome(assign.item).bounds) if command.stop else None
        if place is not None:
            seconds *= (place + 1) / (len(self._job.outcome(assign.item).bounds) + 1)
        if blocks is not None:
            seconds *= len(blocks) / self._job.n_blocks
            self._result.n_parts += 1
        else:
            self._result.n_evaluations += 1
        self._result.busy_s += seconds
        at_s = now_s + seconds
        status = self._violent_end(assign.item)
        if status is not None:
            outcome = Outcome(status, rank=command.rank)
            self._events.put(at_s, TaskFailed(command.rank, command.assignment, outcome, at_s))
        elif blocks is None or (0 in blocks and self._job.outcome(assign.item).status != "ok"):
            self._answer(command.rank, seconds, at_s, place)
        else:
            self._worked_s[assign.task] += seconds
            overhead_s = self._job.build_s if assign.assignment not in self._has_scored else None
            self._has_scored.add(assign.assignment)
            self._events.put(at_s, PartDone(command.rank, command.assignment, seconds, overhead_s, at_s))

    def _violent_end(self, item: Item) -> Status | None:
        if isinstance(item, Probe):
            return None
        if self._job.crash(item):
            return "crashed"
        return "timeout" if self._job.timeout(item) else None
