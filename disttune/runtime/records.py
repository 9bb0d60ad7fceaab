"""The records of a journal: what happened in a job, one frozen dataclass for each kind of fact.

A record that exists is valid: types are checked when it is made, by our code or from a journal. A key
that a later version adds gets a default here, so that older journals can still be read; a change that
old readers must not overlook raises `FORMAT`.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from functools import partial
from types import UnionType
from typing import Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints

from disttune.config.nearest import unknown_name
from disttune.strategy.trial import Status

FORMAT = 1
JobStatus = Literal["goal_met", "goal_not_met", "interrupted"]
StageNeeds = Literal["metric", "goal"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """What every record says.

    Args:
        t: job seconds, counted on over restarts.
    Raises:
        ValueError: a field has the wrong type, is negative where it counts, or is not finite.
    """

    kind: ClassVar[str]
    t: float

    def __post_init__(self) -> None:
        for name, exact, fit in _FITS[self.kind]:
            value = getattr(self, name)
            if value.__class__ is exact:
                continue
            fitted = fit(value)
            if fitted is _UNFIT:
                rule = _rule(_FIELDS[self.kind][name])
                raise ValueError(f'"{name}" of a {self.kind} record must be {rule}, got {_shortened(value)}')
            if fitted is not value:
                object.__setattr__(self, name, fitted)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types (tuples stand for lists), the kind first."""
        return {"kind": self.kind, **{name: getattr(self, name) for name in _FIELDS[self.kind]}}


@dataclass(frozen=True, kw_only=True, slots=True)
class JobRecord(Record):
    """Which job the journal belongs to: its first line.

    Args:
        versions: of disttune, onnxruntime, onnx, numpy and python.
        fingerprint: "section.key" -> plain value of every job key that may not change.
        strategy: the strategy's name, aliases resolved.
        semantics: version of each part of disttune that results rest on; see `semantics`.
    """

    kind: ClassVar[str] = "job"
    format: int = FORMAT
    versions: dict[str, str]
    model_digest: str
    data_digest: str
    code_digest: str
    fingerprint: dict[str, Any]
    strategy: str
    semantics: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class SessionRecord(Record):
    """One start of the command.

    Args:
        number: 1 for the first, 2 for the first resume.
        hosts: one for each node.
        started: ISO 8601 date and time.
        cpus: host -> CPU model; results need not be bit-equal between models.
        reduce_range: whether weights take one bit less; the first session decides.
    """

    kind: ClassVar[str] = "session"
    number: int
    n_ranks: int
    hosts: tuple[str, ...]
    started: str
    cpus: dict[str, str]
    reduce_range: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class BaselineRecord(Record):
    """Metrics of the fp32 model.

    Args:
        values: one for each evaluator.
        names: of the evaluators.
        seconds: the evaluation took; 0 when the values were given.
        given: whether the user gave the values.
        n_blocks: of samples that an evaluation can be split into; 0 where it cannot, or it is not known.
    """

    kind: ClassVar[str] = "baseline"
    values: tuple[float, ...]
    names: tuple[str, ...]
    seconds: float
    given: bool
    n_blocks: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class DeadlineRecord(Record):
    """How long an evaluation may take."""

    kind: ClassVar[str] = "deadline"
    trial_timeout_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class StageRecord(Record):
    """A stage that the strategy yielded.

    Args:
        n_items: of a stage that was yielded as a list; None for a lazy one.
    """

    kind: ClassVar[str] = "stage"
    index: int
    name: str
    needs: StageNeeds
    goal_stops: bool
    n_items: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ProposalRecord(Record):
    """A candidate that got a trial number.

    Args:
        stage: index of its stage.
        item: index within the stage.
        candidate: as `Candidate.to_dict` gives it.
    """

    kind: ClassVar[str] = "proposal"
    stage: int
    item: int
    trial: int
    digest: str
    candidate: dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeResultRecord(Record):
    """What a probe measured.

    Args:
        stage: index of its stage.
        item: index within the stage.
        probe: what was measured, plain JSON.
        value: plain JSON.
    """

    kind: ClassVar[str] = "probe_result"
    stage: int
    item: int
    probe: dict[str, Any]
    status: Status
    value: Any
    seconds: float
    rank: int
    reason: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class LatencyRecord(Record):
    """What measuring the latency of a trial's model gave.

    Args:
        digest: of the candidate.
        value: ratio, spread, milliseconds and float_milliseconds; None when it failed.
        seconds: that it took.
    """

    kind: ClassVar[str] = "latency"
    trial: int
    digest: str
    status: Status
    value: dict[str, float] | None
    seconds: float
    rank: int
    reason: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class ResultRecord(Record):
    """Outcome of a trial.

    Args:
        model_digest: None when no model could be built.
        values: metrics, one for each evaluator; None when there is none.
        size_bytes: of the model; None when it could not be built.
        n_quantized: nodes that compute in low precision; None when it could not be built.
        seconds: quantizing and evaluation.
        evaluation_s: the evaluation alone.
        cancelled: ended by the job's timeout. This is no outcome: a resume runs the trial again.
        packed: whether sessions packed their weights.
        n_ranks: that evaluated it, each a part.
        bounds: best that the metric could still become, look after look; where trials may end early.
    """

    kind: ClassVar[str] = "result"
    trial: int
    digest: str
    model_digest: str | None
    status: Status
    values: tuple[float, ...] | None
    size_bytes: int | None
    n_quantized: int | None
    seconds: float
    evaluation_s: float
    rank: int
    reason: str = ""
    stderr_tail: str = ""
    cancelled: bool = False
    packed: bool = True
    n_ranks: int = 1
    bounds: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class CommitRecord(Record):
    """What a commit decided. For onlookers: a resume derives it anew and only compares.

    Args:
        duplicate_of: number of the first trial with the same model, or None.
        best: number of the best trial so far, or None.
    """

    kind: ClassVar[str] = "commit"
    trial: int
    duplicate_of: int | None
    meets_goal: bool
    best: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportRecord(Record):
    """The file now holds the model of this trial."""

    kind: ClassVar[str] = "export"
    trial: int
    digest: str
    model_digest: str
    file: str


@dataclass(frozen=True, kw_only=True, slots=True)
class FinishRecord(Record):
    """The end of a session that came to one."""

    kind: ClassVar[str] = "finish"
    status: JobStatus
    stop_reason: str


KINDS: dict[str, type[Record]] = {
    record.kind: record
    for record in (
        JobRecord,
        SessionRecord,
        BaselineRecord,
        DeadlineRecord,
        StageRecord,
        ProposalRecord,
        ProbeResultRecord,
        LatencyRecord,
        ResultRecord,
        CommitRecord,
        ExportRecord,
        FinishRecord,
    )
}


def _field_types(record_class: type[Record]) -> dict[str, Any]:
    hints = get_type_hints(record_class)
    return {f.name: hints[f.name] for f in fields(record_class)}


_FIELDS = {kind: _field_types(record_class) for kind, record_class in KINDS.items()}
_REQUIRED = {
    kind: [f.name for f in fields(c) if f.default is MISSING and f.default_factory is MISSING]
    for kind, c in KINDS.items()
}


def record_from_dict(data: Mapping[str, Any]) -> Record:
    """Read what `Record.to_dict` wrote; keys that this version does not know are ignored.

    Raises:
        ValueError: the kind is unknown, a key is missing or a value has the wrong type.
    """
    kind = data.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        raise ValueError(unknown_name("kind of record", str(kind), KINDS))
    missing = [name for name in _REQUIRED[kind] if name not in data]
    if missing:
        raise ValueError(f"a {kind} record lacks {', '.join(missing)}")
    return KINDS[kind](**{name: data[name] for name in _FIELDS[kind] if name in data})


_UNFIT = object()


def _fit(hint: Any) -> Callable[[Any], Any]:
    """What gives a value in the type that is asked for (int to float, list to tuple), or `_UNFIT`."""
    if hint is Any:
        return lambda value: value
    if hint is float:
        return _fitted_number
    if hint is int:
        return _fitted_count
    origin, args = get_origin(hint), get_args(hint)
    if origin is None:
        return lambda value: value if isinstance(value, hint) else _UNFIT
    if origin is Literal:
        return lambda value: value if isinstance(value, str) and value in args else _UNFIT
    if origin in (Union, UnionType):  # all our unions are `X | None`
        inner = _fit(args[0])
        return lambda value: None if value is None else inner(value)
    return partial(
        _fitted_list if origin is tuple else _fitted_object, _fit(args[-1 if origin is dict else 0])
    )


def _fitted_count(value: Any) -> Any:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else _UNFIT


def _fitted_number(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return _UNFIT
    try:
        number = float(value)
    except OverflowError:
        return _UNFIT
    return number if math.isfinite(number) else _UNFIT


def _fitted_list(fit: Callable[[Any], Any], value: Any) -> Any:
    items = [fit(v) for v in value] if isinstance(value, (list, tuple)) else [_UNFIT]
    return _UNFIT if any(item is _UNFIT for item in items) else tuple(items)


def _fitted_object(fit: Callable[[Any], Any], value: Any) -> Any:
    fits = isinstance(value, dict) and all(
        isinstance(k, str) and fit(v) is not _UNFIT for k, v in value.items()
    )
    return value if fits else _UNFIT


def _rule(hint: Any) -> str:
    """What a field of this type accepts, in words."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return f"{_rule(args[0])} or null"
    if origin is Literal:
        return "one of " + ", ".join(map(str, args))
    if origin is tuple:
        return f"a list, each item {_rule(args[0])}"
    if origin is dict:
        return "an object" + ("" if args[1] is Any else f", each value {_rule(args[1])}")
    words = {str: "a string", int: "an integer >= 0", float: "a finite number", bool: "true or false"}
    return words.get(hint, "plain JSON")


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


_EXACT = {str: str, bool: bool, str | None: str, bool | None: bool}  # types whose every value fits
_FITS = {
    kind: [(name, _EXACT.get(hint), _fit(hint)) for name, hint in hints.items() if hint is not Any]
    for kind, hints in _FIELDS.items()
}
