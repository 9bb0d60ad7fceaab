"""A simulated job: the real scheduler, any number of workers, a synthetic accuracy landscape."""

import heapq
import random
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field

from disttune.config.goal import Goal, Objective
from disttune.config.schemes import OpConfig, Scheme
from disttune.schedule.events import (
    Assign,
    Cancel,
    Command,
    Commit,
    Evaluate,
    Event,
    Finish,
    Interrupt,
    ModelBuilt,
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
from disttune.schedule.outcome import Outcome
from disttune.schedule.scheduler import Recording, Scheduler
from disttune.space.candidate import Candidate
from disttune.space.space import Space
from disttune.space.summary import ModelSummary, OpSummary
from disttune.strategy.registry import Strategy
from disttune.strategy.stage import Item, Probe, Stage, StageResult
from disttune.strategy.trial import Trial
from disttune.strategy.tuning import Tuning

PER_CHANNEL = Scheme("int8", True, "per_channel")
PER_TENSOR = Scheme("int8", True, "per_tensor")
ACTIVATION = Scheme("uint8", False)
OPTIONS = (OpConfig("static", PER_CHANNEL, ACTIVATION), OpConfig("static", PER_TENSOR, ACTIVATION))


def small_space(n_ops: int = 3) -> Space:
    """Ops `conv_0` ... with two options each: 2 ** n_ops candidates."""
    names = [f"conv_{i}" for i in range(n_ops)]
    return Space(dict.fromkeys(names, OPTIONS), dict.fromkeys(names, "Conv"))


def summary(space: Space) -> ModelSummary:
    ops = tuple(OpSummary(name, "Conv", (f"{name}_in",), (f"{name}_out",)) for name in space.ops)
    return ModelSummary(ops, ("x",), ("y",), 17, 1000, 250)


class Listed:
    """A strategy that yields the stages it is given."""

    def __init__(self, *stages: Stage):
        self.given = stages
        self.results: list[StageResult] = []

    def stages(self, tuning: Tuning) -> Generator[Stage, StageResult, None]:
        for stage in self.given:
            self.results.append((yield stage))


@dataclass
class SimulatedJob:
    """Everything that decides a trial table.

    Args:
        metric: of a candidate; an exception stands for an evaluation that raises.
        model: digest of the model a candidate makes; by default its own digest.
        crash: candidates whose trial process always dies.
        duration_s: of an item on a rank.
    """

    strategy: Callable[[], Strategy]
    space: Space
    metric: Callable[[Candidate], float]
    goal: float = 0.9
    policy: ExitPolicy = field(default_factory=ExitPolicy)
    model: Callable[[Candidate], str] = lambda c: c.digest
    crash: Callable[[Candidate], bool] = lambda c: False
    timeout: Callable[[Candidate], bool] = lambda c: False
    duration_s: Callable[[Item, int], float] = lambda item, rank: 1.0
    objective: str = "first"
    seed: int = 0

    def scheduler(self, recording: Recording | None = None) -> Scheduler:
        goal = Goal((Objective("accuracy"),), (self.goal,), "absolute", 0.0)
        tuning = Tuning(self.space, summary(self.space), goal, self.seed, max_trials=self.policy.max_trials)
        return Scheduler(self.strategy(), History(tuning, self.objective), self.policy, recording)

    def outcome(self, item: Item) -> Outcome:
        if isinstance(item, Probe):
            return Outcome("ok", value=item.arguments.get("value"))
        try:
            value = self.metric(item)
        except Exception as error:
            return Outcome(
                "failed", reason=str(error), model_digest=self.model(item), size_bytes=1, n_quantized=1
            )
        return Outcome(
            "ok", (value,), model_digest=self.model(item), size_bytes=100, n_quantized=len(item.quantized_ops)
        )


@dataclass
class Simulation:
    """What came of it."""

    table: list[tuple[object, ...]]
    finish: Finish | None
    best: int | None
    outcomes: dict[str, Outcome]
    time_s: float
    n_events: int
    n_evaluations: int
    busy_s: float
    commands: list[Command]


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
    """Run a job to its end on simulated workers; invariants are checked after every event."""
    scheduler = job.scheduler(recording)
    heap: list[tuple[float, int, Event]] = []
    counter = iter(range(10**9))
    running: dict[int, Assign] = {}
    gone: set[int] = set()
    result = Simulation([], None, None, {}, 0.0, 0, 0, 0.0, [])

    def push(at_s: float, event: Event) -> None:
        heapq.heappush(heap, (at_s, next(counter), event))

    def act(command: Command, now_s: float) -> None:
        result.commands.append(command)
        match command:
            case Assign(rank=rank, item=item):
                running[rank] = command
                outcome = job.outcome(item)
                seconds = job.duration_s(item, rank)
                result.busy_s += seconds
                if isinstance(item, Candidate) and job.crash(item):
                    push(
                        now_s + seconds,
                        TaskFailed(rank, command.assignment, Outcome("crashed", rank=rank), now_s + seconds),
                    )
                elif isinstance(item, Candidate) and job.timeout(item):
                    push(
                        now_s + seconds,
                        TaskFailed(rank, command.assignment, Outcome("timeout", rank=rank), now_s + seconds),
                    )
                elif outcome.model_digest is not None:
                    push(now_s, ModelBuilt(rank, command.assignment, outcome.model_digest, now_s))
                else:
                    push(now_s + seconds, TaskDone(rank, command.assignment, outcome, now_s + seconds))
            case Evaluate(rank=rank):
                result.n_evaluations += 1
                at_s = now_s + job.duration_s(running[rank].item, rank)
                push(at_s, TaskDone(rank, command.assignment, job.outcome(running[rank].item), at_s))
            case Skip(rank=rank) | Cancel(rank=rank):
                running.pop(rank, None)
            case Settle(item=item, outcome=outcome) if isinstance(item, Candidate):
                result.outcomes[item.digest] = outcome
            case Commit(trial=trial):
                result.table.append(row(trial))
            case Finish():
                result.finish = command
            case _:
                pass

    for rank in range(ranks):
        push(0.0, WorkerJoined(rank, f"node-{rank % nodes}", 0.0))
    for rank, at_s in (lost or {}).items():
        push(at_s, WorkerLost(rank, at_s))
    if interrupt_at_s is not None:
        push(interrupt_at_s, Interrupt(interrupt_at_s, 0.0))
    if job.policy.timeout_s:
        push(job.policy.timeout_s, Tick(job.policy.timeout_s))
    while heap and not scheduler.finished:
        now_s, _, event = heapq.heappop(heap)
        if now_s > until_s:
            break
        if isinstance(event, WorkerLost):
            gone.add(event.rank)
        elif getattr(event, "rank", None) in gone and not isinstance(event, WorkerJoined):
            pass  # a late answer: the scheduler must ignore it
        result.time_s = now_s
        result.n_events += 1
        for command in scheduler.handle(event):
            act(command, now_s)
        if check:
            scheduler.check_invariants()
    best = scheduler.history.best
    result.best = best.number if best else None
    return result


class Recorded:
    """A recording made of the outcomes of an earlier simulation."""

    def __init__(
        self, outcomes: Mapping[str, Outcome], proposals: Mapping[tuple[int, int], Item] | None = None
    ):
        self.outcomes = outcomes
        self.proposals = proposals or {}

    def proposal(self, stage: int, index: int) -> Item | None:
        return self.proposals.get((stage, index))

    def outcome(self, candidate: Candidate) -> Outcome | None:
        return self.outcomes.get(candidate.digest)

    def was_cancelled(self, candidate: Candidate) -> bool:
        return False

    def probe(self, stage: int, index: int) -> Outcome | None:
        return None


def landscape(seed: int, bad_ops: Sequence[str] = ()) -> Callable[[Candidate], float]:
    """A metric that falls with each op per tensor, more for bad ones, with noise fixed by the digest."""

    def metric(candidate: Candidate) -> float:
        noise = random.Random(f"{seed}{candidate.digest}").random() * 0.01
        n_tensor = sum(c.weight == PER_TENSOR for c in candidate.configs().values())
        n_bad = sum(candidate.config_of(op).quantized for op in bad_ops)
        return 1.0 - 0.02 * n_tensor - 0.1 * n_bad - noise

    return metric
