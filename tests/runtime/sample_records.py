"""One record of each kind, and any record, for tests of the journal."""

from dataclasses import fields
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from hypothesis import strategies as st

from disttune.runtime.records import (
    KINDS,
    BaselineRecord,
    CommitRecord,
    DeadlineRecord,
    ExportRecord,
    FinishRecord,
    JobRecord,
    LatencyRecord,
    ProbeResultRecord,
    ProposalRecord,
    Record,
    ResultRecord,
    SessionRecord,
    StageRecord,
)


def job_record(**changes: Any) -> JobRecord:
    values: dict[str, Any] = {
        "t": 0.0,
        "versions": {"disttune": "0.1.0", "onnxruntime": "1.31.1"},
        "model_digest": "11" * 16,
        "data_digest": "22" * 16,
        "code_digest": "33" * 16,
        "fingerprint": {
            "accuracy.tolerable_loss": 0.01,
            "quantization.op_types": {"Conv": {"weight": "int8"}},
        },
        "strategy": "random",
    }
    return JobRecord(**{**values, **changes})


def result_record(trial: int = 0, t: float = 2.5, **changes: Any) -> ResultRecord:
    values: dict[str, Any] = {
        "digest": f"{trial:032x}",
        "model_digest": f"{trial + 1:032x}",
        "status": "ok",
        "values": (0.1 + 0.2, -0.0),
        "size_bytes": 123456,
        "n_quantized": 7,
        "seconds": 1.25,
        "evaluation_s": 1.0,
        "rank": 3,
    }
    return ResultRecord(t=t, trial=trial, **{**values, **changes})


def one_of_each() -> list[Record]:
    """A small job: every kind of record, the job record first."""
    return [
        job_record(),
        SessionRecord(t=0.0, number=1, n_ranks=4, hosts=("a", "b"), started="2025-01-02T03:04:05+00:00",
                      cpus={"a": "x86", "b": "x86"}),
        BaselineRecord(t=1.0, values=(0.75,), names=("top1",), seconds=0.5, given=False),
        DeadlineRecord(t=1.0, trial_timeout_s=60.0),
        StageRecord(t=1.0, index=0, name="all quantized", needs="metric", goal_stops=True, n_items=2),
        ProposalRecord(t=1.0, stage=0, item=0, trial=0, digest="ab" * 16, candidate={"default": {"w": None}}),
        ProbeResultRecord(t=1.5, stage=0, item=1, probe={"kind": "mse"}, status="ok", value=[1, 2.5, "x"],
                          seconds=0.1, rank=1),
        LatencyRecord(t=1.7, trial=0, digest="ab" * 16, status="ok",
                      value={"ratio": 0.5, "spread": 0.1, "milliseconds": 1.0, "float_milliseconds": 2.0},
                      seconds=1.1, rank=1),
        result_record(),
        result_record(1, status="crashed", values=None, model_digest=None, size_bytes=None, n_quantized=None,
                      reason='signal 11, "x"\n', stderr_tail="Ünicode \ud800 \x00", cancelled=True),
        CommitRecord(t=3.0, trial=0, duplicate_of=None, meets_goal=True, best=0),
        ExportRecord(t=3.5, trial=0, digest="ab" * 16, model_digest="cd" * 16, file="best.onnx"),
        FinishRecord(t=4.0, status="goal_met", stop_reason="goal"),
    ]  # fmt: skip


FLOATS = st.floats(allow_nan=False, allow_infinity=False)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | FLOATS | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
SCALARS: dict[Any, st.SearchStrategy[Any]] = {
    Any: PLAIN,
    str: st.text(st.characters(), max_size=10),
    int: st.integers(0, 2**70),
    float: FLOATS,
    bool: st.booleans(),
}


def values_of(hint: Any) -> st.SearchStrategy[Any]:
    """Any value that a field of this type may hold."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Literal:
        return st.sampled_from(args)
    if origin is UnionType:
        return st.none() | values_of(args[0])
    if origin is tuple:
        return st.lists(values_of(args[0]), max_size=3).map(tuple)
    if origin is dict:
        return st.dictionaries(st.text(max_size=5), values_of(args[1]), max_size=3)
    return SCALARS[hint]


def records_of(kind: str) -> st.SearchStrategy[Record]:
    """Any record of a kind (the format is a constant)."""
    hints = get_type_hints(KINDS[kind])
    names = [f.name for f in fields(KINDS[kind]) if f.name != "format"]
    return st.builds(KINDS[kind], **{name: values_of(hints[name]) for name in names})


ANY_RECORD = st.sampled_from(sorted(KINDS)).flatmap(records_of)
