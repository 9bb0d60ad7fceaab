"""What ranks say to each other about works: who needs which, who does one, where its result is.

Frozen dataclasses, as in `messages`. Results are plain arrays by name.
"""

from dataclasses import dataclass
from typing import Any

from disttune.quantize.work import Work
from disttune.runtime.messages import OpenFile, ToAgent, ToMaster


@dataclass(frozen=True, slots=True)
class NeedsWorks(ToMaster):
    """A candidate cannot be built before these are done; `assignment` is None for an export."""

    assignment: int | None
    works: tuple[Work, ...]


@dataclass(frozen=True, slots=True)
class WorkDone(ToMaster):
    """A result, or the reason why there will be none; `is_fault` when that reason is a fault of ours."""

    key: str
    results: dict[str, Any] | None
    reason: str = ""
    is_fault: bool = False


@dataclass(frozen=True, slots=True)
class WorkDied(ToMaster):
    """The trial process ended during a work, or ran out of memory or time."""

    key: str
    reason: str


@dataclass(frozen=True, slots=True)
class ResultKept(ToMaster):
    """Rank 0 holds a result in a memory file."""

    key: str
    file: OpenFile
    nonce: bytes


@dataclass(frozen=True, slots=True)
class RunWork(ToAgent):
    """Do a work; what it needs has been sent before."""

    work: Work


@dataclass(frozen=True, slots=True)
class CancelWork(ToAgent):
    """Stop a work; no answer is expected."""

    key: str


@dataclass(frozen=True, slots=True)
class KeepResult(ToAgent):
    """Keep a result in a memory file (rank 0 only)."""

    key: str
    results: dict[str, Any]


@dataclass(frozen=True, slots=True)
class UseResult(ToAgent):
    """A result is in this file, which may be this node's (`nonce` tells), or there is a reason for none."""

    work: Work
    file: OpenFile | None = None
    nonce: bytes = b""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class GoOn(ToAgent):
    """Everything that an assignment has asked for has been sent."""

    assignment: int


@dataclass(frozen=True, slots=True)
class LearnResults:
    """To a trial process: where results are, or why there are none; it answers only if that goes wrong."""

    results: tuple[tuple[Work, OpenFile | str], ...]
