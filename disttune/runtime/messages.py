"""What ranks say to each other while trials run, and an agent to its trial process.

Frozen dataclasses. `ToAgent` goes from the master to an agent, `ToMaster` the other way; an agent passes some
of both on to or from its trial process. Beside these: `start_messages` until all is ready, `work_messages`.
"""

from dataclasses import dataclass
from typing import Any

from disttune.runtime.result import TuningResult
from disttune.schedule.early_stop import StopRule
from disttune.schedule.outcome import Outcome
from disttune.space.candidate import Candidate
from disttune.strategy.stage import Item


class ToAgent:
    """Handled by the agent of a rank."""


class ToMaster:
    """Handled by the master on rank 0."""


@dataclass(frozen=True, slots=True)
class OpenFile:
    """A memory file that another process of the same node can open.

    Args:
        pid: of the process that holds it open.
        descriptor: its number there.
        offset: where in the file the content begins.
        n_bytes: of the content; 0: up to the end.
    """

    pid: int
    descriptor: int
    offset: int = 0
    n_bytes: int = 0


@dataclass(frozen=True, slots=True)
class ProcessId:
    """A process of some node, told from a later one with its number.

    Args:
        pid: process id.
        started_ticks: when it was started, in clock ticks since boot; 0 where it is not told.
    """

    pid: int
    started_ticks: int


# Agent to master


@dataclass(frozen=True, slots=True)
class Unusable(ToMaster):
    """This rank cannot take part; `exit_code` is the job's if it cannot do without."""

    reason: str
    exit_code: int = 1


@dataclass(frozen=True, slots=True)
class RankLost(ToMaster):
    """The transport reports that the rank this comes from is gone."""

    reason: str


@dataclass(frozen=True, slots=True)
class Built(ToMaster):
    """The model is built; whether it is evaluated is the master's word."""

    assignment: int
    model_digest: str
    size_bytes: int
    n_quantized: int


@dataclass(frozen=True, slots=True)
class Answer(ToMaster):
    """An outcome that stands, or with `again` one that the scheduler may have repeated."""

    assignment: int
    outcome: Outcome
    again: bool = False


@dataclass(frozen=True, slots=True)
class PartScored(ToMaster):
    """A part of an evaluation is done; the model is kept for another.

    Args:
        blocks: that were scored.
        scores: of each of them, shape (n,).
        evaluation_s: that it took.
        opening_s: of that, making the session; None when there was one from an earlier part.
        seconds: beside the evaluation building the model, if this is the first part here.
    """

    assignment: int
    blocks: range
    scores: tuple[Any, ...]
    evaluation_s: float
    opening_s: float | None = None
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class LogText(ToMaster):
    text: str


@dataclass(frozen=True, slots=True)
class Alive(ToMaster):
    """A sign of life; the master answers each with `Heard`."""


@dataclass(frozen=True, slots=True)
class Exported(ToMaster):
    """The best model is in its file.

    Args:
        fits: whether its format is one that the job's target takes.
        target_check: that outcome in words.
    """

    trial: int
    model_digest: str
    path: str
    fits: bool = True
    target_check: str = ""


@dataclass(frozen=True, slots=True)
class Refused(ToMaster):
    """A task of rank 0's trial process ended in a message for the user."""

    task: str
    message: str
    exit_code: int


# Master to agent


@dataclass(frozen=True, slots=True)
class Export(ToAgent):
    """Write a trial's model (rank 0 only), before that rank's next trial."""

    trial: int
    candidate: Candidate
    path: str


@dataclass(frozen=True, slots=True)
class RunTask(ToAgent):
    assignment: int
    task: int
    item: Item
    evaluation_timeout_s: float


@dataclass(frozen=True, slots=True)
class EvaluateModel(ToAgent):
    """Go on with the evaluation.

    Args:
        packed: in sessions that pack their weights whatever the job says.
        blocks: of samples, to be scored and no more; None: all of it.
        stop: when it may end early; None: never.
    """

    assignment: int
    packed: bool = False
    blocks: range | None = None
    stop: StopRule | None = None


@dataclass(frozen=True, slots=True)
class CombineScores(ToAgent):
    """All blocks are scored: make the metrics of them.

    Args:
        scores: of each block in order, shape (n,).
    """

    assignment: int
    packed: bool
    scores: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class SkipModel(ToAgent):
    assignment: int


@dataclass(frozen=True, slots=True)
class CancelTask(ToAgent):
    assignment: int


@dataclass(frozen=True, slots=True)
class Welcome(ToAgent):
    """The answer to `Hello`: how often to give a sign of life, and how long to wait for others'."""

    heartbeat_s: float
    master_silent_s: float
    preparation_s: float


@dataclass(frozen=True, slots=True)
class EndProcess(ToAgent):
    """An agent on this node has been silent for too long: end it.

    It takes no part any more, but keeps cores and memory, and MPI would wait for it at the end.
    """

    process: ProcessId


@dataclass(frozen=True, slots=True)
class Heard(ToAgent):
    """The master lives, too."""


@dataclass(frozen=True, slots=True)
class Goodbye(ToAgent):
    """The end.

    Args:
        message: why it ended with an error; `error` is its class.
        result: what `autotune()` returns on every rank.
        model: that result's files, by name.
        providers: of onnxruntime, to run it with.
        beside: agents of this node that must end, too; one that is stopped then would keep mpirun waiting.
    """

    exit_code: int
    result: TuningResult | None = None
    model: dict[str, bytes] | None = None
    message: str = ""
    providers: tuple[str, ...] = ()
    beside: tuple[ProcessId, ...] = ()
    error: str = ""


# Any way


@dataclass(frozen=True, slots=True)
class Envelope:
    """A message and the rank it came from."""

    source: int
    message: ToMaster | ToAgent
