"""What goes into the scheduler (events, past) and comes out of it (commands, imperative).

Pure data. Time comes in with every event, in seconds of the job over all its restarts. An assignment is
a number given once to each hand-out, so that a late answer can never be taken for another task's.
"""

from dataclasses import dataclass
from typing import Literal

from disttune.schedule.early_stop import StopRule
from disttune.schedule.outcome import Outcome
from disttune.strategy.stage import Item, Stage
from disttune.strategy.trial import Trial


@dataclass(frozen=True, slots=True)
class WorkerJoined:
    """A rank is ready for work. `node` is the same for ranks that share a machine."""

    rank: int
    node: str
    now_s: float


@dataclass(frozen=True, slots=True)
class ModelBuilt:
    """A rank has built its trial's model and asks whether to evaluate it."""

    rank: int
    assignment: int
    model_digest: str
    now_s: float


@dataclass(frozen=True, slots=True)
class TaskDone:
    """An outcome that stands, good or bad (the evaluation returned, raised or gave no number)."""

    rank: int
    assignment: int
    outcome: Outcome
    now_s: float


@dataclass(frozen=True, slots=True)
class PartDone:
    """A rank has scored the blocks it was given, and holds the model still.

    Args:
        evaluation_s: that it took.
        overhead_s: until its first block could be scored, if this was its first part.
    """

    rank: int
    assignment: int
    evaluation_s: float
    overhead_s: float | None
    now_s: float


@dataclass(frozen=True, slots=True)
class TaskFailed:
    """The trial process crashed, ran out of time or of memory; the rank is ready again."""

    rank: int
    assignment: int
    outcome: Outcome
    now_s: float


@dataclass(frozen=True, slots=True)
class WorkerLost:
    rank: int
    now_s: float


@dataclass(frozen=True, slots=True)
class Tick:
    now_s: float


@dataclass(frozen=True, slots=True)
class Interrupt:
    """The job must end soon: hand out nothing; what ends within the grace time still counts."""

    now_s: float
    grace_s: float


Event = WorkerJoined | ModelBuilt | PartDone | TaskDone | TaskFailed | WorkerLost | Tick | Interrupt


@dataclass(frozen=True, slots=True)
class OpenStage:
    index: int
    stage: Stage


@dataclass(frozen=True, slots=True)
class Propose:
    """An item of a stage got its number; it is journaled before it is handed out.

    `task` is the trial's number; for a probe it is negative.
    """

    stage: int
    index: int
    task: int
    item: Item


@dataclass(frozen=True, slots=True)
class Assign:
    """Run this item on this rank, `alone` when a first attempt ran out of time or memory."""

    rank: int
    assignment: int
    task: int
    item: Item
    attempt: int = 1
    alone: bool = False


@dataclass(frozen=True, slots=True)
class Evaluate:
    """The answer to ModelBuilt: nobody has measured this model, or not with packed weights as is asked.

    With `blocks` these are scored and no more; then it answers PartDone, too. With `stop` it may end early.
    """

    rank: int
    assignment: int
    packed: bool = False
    blocks: range | None = None
    stop: StopRule | None = None


@dataclass(frozen=True, slots=True)
class Combine:
    """All blocks of a split trial are scored: make its metrics of them on this rank."""

    rank: int
    assignment: int
    packed: bool = False


@dataclass(frozen=True, slots=True)
class Skip:
    """The other answer: the outcome is known, or others score what is left. The rank is idle again."""

    rank: int
    assignment: int


@dataclass(frozen=True, slots=True)
class Cancel:
    """Stop this assignment at once; no answer is expected."""

    rank: int
    assignment: int


@dataclass(frozen=True, slots=True)
class Settle:
    """The outcome of an item is final: it is journaled before its commit counts."""

    stage: int
    index: int
    task: int
    item: Item
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Commit:
    """A row of the trial table is final. `best` is the best trial so far."""

    trial: Trial
    best: Trial | None


@dataclass(frozen=True, slots=True)
class Improve:
    """Another trial is the best so far: it is exported."""

    trial: Trial


@dataclass(frozen=True, slots=True)
class Notice:
    """Something the user should read once."""

    text: str


@dataclass(frozen=True, slots=True)
class Note:
    """Something the strategy tells that is no warning, e.g. why a stage is skipped."""

    text: str


@dataclass(frozen=True, slots=True)
class Finish:
    """The search is over; `status` and `stop_reason` are those of result.json."""

    status: Literal["goal_met", "goal_not_met", "interrupted"]
    stop_reason: str


Command = (
    OpenStage
    | Propose
    | Assign
    | Evaluate
    | Combine
    | Skip
    | Cancel
    | Settle
    | Commit
    | Improve
    | Notice
    | Note
    | Finish
)
