"""A job as an earlier run recorded it, to go through the scheduler again: stages, items, durations.

Pure. No model and no space is at hand: of a candidate its configs count (they decide what starts first), of
an outcome its seconds, whether it met the goal and which model came out.
"""

from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import count

from disttune.config.goal import Goal, Objective
from disttune.config.schemes import FLOAT32
from disttune.schedule.course import Recording
from disttune.schedule.exit_policy import ExitPolicy
from disttune.schedule.history import History
from disttune.schedule.outcome import Outcome
from disttune.schedule.scheduler import Scheduler
from disttune.schedule.splitting import NO_SPLITTING, Splitting
from disttune.space.candidate import Candidate
from disttune.space.space import Space
from disttune.space.summary import ModelSummary
from disttune.strategy.stage import Item, Probe, Stage, StageResult
from disttune.strategy.trial import Latency, Status, Trial
from disttune.strategy.tuning import Tuning

RECORDED = "recorded"  # kind of the probes
_GOAL = Goal((Objective("goal"),), (1.0,), "absolute", 0.5)  # 1 meets it, 0 does not
_LATENCY = asdict(Latency(ratio=1.0, spread=0.0, milliseconds=1.0, float_milliseconds=1.0))


@dataclass(frozen=True, slots=True)
class RecordedRun:
    """How a candidate or a probe went.

    Args:
        status: of the trial.
        build_s: until its model was built, or all of a probe.
        evaluation_s: from then on.
        model_digest: None when no model could be built.
        meets_goal: whether it did.
        measured_twice: first without packed weights, then with.
    """

    status: Status = "ok"
    build_s: float = 0.0
    evaluation_s: float = 0.0
    model_digest: str | None = None
    meets_goal: bool = False
    measured_twice: bool = False


@dataclass(frozen=True, slots=True)
class RecordedStage:
    """A stage with the items of which it is known how they went.

    Args:
        name: of the stage.
        items: in order; probes have the kind `RECORDED` and the place of their run in `RecordedJob.probes`.
        goal_stops: whether a trial that met the goal could end the search.
        n_items: of the stage as it was yielded; None when it was lazy.
    """

    name: str
    items: tuple[Item, ...]
    goal_stops: bool
    n_items: int | None = None


@dataclass(frozen=True)
class RecordedJob:
    """A job that can be run again without models.

    Args:
        stages: in order.
        trials: how each candidate went, by digest.
        probes: how each probe went.
        latencies_s: how long measuring the latency of a candidate took, by digest.
        stop_reason: of the recorded run; "" when it has not come to its end.
        stopped_by: digest of the candidate whose commit ended the search, if one did.
        stop_at: "goal" or "budget".
        latency_decides: whether the best depended on latencies.
        startup_s: from the start to the first trial.
        closing_s: from the last outcome to the end.
        handover_s: a rank needs between two trials, beside their own seconds.
        splitting: what an evaluation can be split into.
        n_ranks: of the recorded run.
        n_nodes: of the recorded run.
    """

    stages: tuple[RecordedStage, ...]
    trials: Mapping[str, RecordedRun]
    probes: tuple[RecordedRun, ...] = ()
    latencies_s: Mapping[str, float] | None = None
    stop_reason: str = ""
    stopped_by: str | None = None
    stop_at: str = "budget"
    latency_decides: bool = False
    startup_s: float = 0.0
    closing_s: float = 0.0
    handover_s: float = 0.0
    splitting: Splitting = NO_SPLITTING
    n_ranks: int = 1
    n_nodes: int = 1

    @property
    def mean_trial_s(self) -> float:
        runs = self.trials.values()
        return sum(r.build_s + r.evaluation_s for r in runs) / max(1, len(runs))

    def scheduler(self, recording: Recording | None = None, n_ranks: int = 1) -> Scheduler:
        """The real one, on this job's items."""
        splitting = replace(self.splitting, n_ranks=n_ranks)
        space, summary = Space({}, {}), ModelSummary((), ("x",), ("y",), 0, 0, 0)
        history = History(Tuning(space, summary, _GOAL), "latency" if self.latency_decides else "first")
        policy = _RecordedStop(
            stop_at="goal" if self.stop_at == "goal" else "budget",
            max_trials=len(self.trials) + 1 if self.stopped_by is None else 2**62,
            stopped_by=self.stopped_by,
        )
        return Scheduler(_RecordedStrategy(self), history, policy, recording, splitting)

    def run_of(self, item: Item) -> RecordedRun:
        """How it went, or for what the recorded run never began: how it went on average."""
        if isinstance(item, Candidate):
            return self.trials.get(item.digest) or RecordedRun(build_s=self.mean_trial_s)
        if item.kind == RECORDED:
            place: int = item.arguments["place"]
            return self.probes[place]
        known = self.latencies_s or {}
        assert item.candidate is not None
        seconds = known.get(item.candidate.digest, sum(known.values()) / max(1, len(known)))
        return RecordedRun(build_s=seconds)

    def outcome(self, item: Item, packed: bool = True) -> Outcome:
        """What the scheduler is told of it."""
        run = self.run_of(item)
        if isinstance(item, Probe):
            return Outcome(run.status, value=None if item.kind == RECORDED else _LATENCY)
        status: Status = "failed" if run.status == "pruned" else run.status  # neither has a metric
        measured = Outcome(status, None, None, run.model_digest, size_bytes=1, n_quantized=1)
        values = (float(run.meets_goal),) if run.status == "ok" else None
        measured = replace(measured, evaluation_s=run.evaluation_s)
        return replace(measured, values=values, packed=packed or not run.measured_twice)


@dataclass(frozen=True, slots=True)
class _RecordedStop(ExitPolicy):
    """Stops where the recorded run did, and nowhere else."""

    stopped_by: str | None = None

    @property
    def only_counts(self) -> bool:
        return self.stop_at == "budget" and self.stopped_by is None

    def after_commit(self, row: Trial, history: History, goal_stops: bool) -> str | None:  # noqa: ARG002
        is_last = row.candidate.digest == self.stopped_by and row.duplicate_of is None
        return "goal" if is_last else None


class _RecordedStrategy:
    """Yields the recorded stages; where a commit ended the last one, what would have come after it."""

    def __init__(self, job: RecordedJob):
        self._job = job

    def stages(self, tuning: Tuning) -> Generator[Stage, StageResult, None]:
        if self._job.latencies_s:
            tuning.ask_for_latency()
        for stage in self._job.stages:
            is_last = self._job.stopped_by is not None and stage is self._job.stages[-1]
            items: Iterable[Item] = _and_more(stage) if is_last else iter(stage.items)
            yield Stage(
                stage.name, items if stage.n_items is None else list(items), goal_stops=stage.goal_stops
            )


def _and_more(stage: RecordedStage) -> Iterator[Item]:
    """The items, then candidates that nothing is known of."""
    yield from stage.items
    n_more = None if stage.n_items is None else max(0, stage.n_items - len(stage.items))
    for n in count() if n_more is None else range(n_more):
        yield Candidate((), FLOAT32, recipes=(("ahead", n),))
