"""Records are valid when made, from code or from a journal."""

import json
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from disttune.runtime.records import KINDS, BaselineRecord, FinishRecord, Record, record_from_dict
from tests.runtime.sample_records import ANY_RECORD, FLOATS, job_record, one_of_each, result_record


@given(ANY_RECORD)
def test_record_comes_back_equal_from_json(record: Record):
    assert record_from_dict(json.loads(json.dumps(record.to_dict()))) == record


@given(st.lists(FLOATS, min_size=1))
def test_floats_come_back_bit_for_bit(values: list[float]):
    record = BaselineRecord(t=0.0, values=tuple(values), names=(), seconds=0.0, given=True)
    back = record_from_dict(json.loads(json.dumps(record.to_dict())))
    assert isinstance(back, BaselineRecord)
    assert struct.pack(f"{len(values)}d", *back.values) == struct.pack(f"{len(values)}d", *values)


def test_every_kind_has_a_sample():
    assert {record.kind for record in one_of_each()} == set(KINDS)


@pytest.mark.parametrize("record", one_of_each(), ids=lambda r: r.kind)
def test_missing_key_is_named(record: Record):
    optional = {
        "format",
        "reason",
        "stderr_tail",
        "cancelled",
        "packed",
        "semantics",
        "reduce_range",
        "n_items",
        "n_blocks",
        "n_ranks",
        "bounds",
    }
    for name in set(record.to_dict()) - optional - {"kind"}:
        data = {k: v for k, v in record.to_dict().items() if k != name}
        with pytest.raises(ValueError, match=f"a {record.kind} record lacks {name}"):
            record_from_dict(data)


@pytest.mark.parametrize("record", one_of_each(), ids=lambda r: r.kind)
def test_wrong_type_is_named(record: Record):
    for name in set(record.to_dict()) - {"kind", "value"}:
        with pytest.raises(ValueError, match=f'"{name}" of a {record.kind} record must be'):
            record_from_dict({**record.to_dict(), name: object()})


def test_unknown_key_is_ignored():
    record = FinishRecord(t=1.0, status="goal_met", stop_reason="goal")
    assert record_from_dict({**record.to_dict(), "mood": "good"}) == record


def test_unknown_kind_is_an_error_with_the_nearest():
    with pytest.raises(ValueError, match=r'no kind of record "resultt"\. Nearest: "result"'):
        record_from_dict({"kind": "resultt"})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 10**400])
def test_number_that_is_not_finite_is_refused(value: float):
    with pytest.raises(ValueError, match='"seconds" of a result record must be a finite number'):
        result_record(seconds=value)


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("trial", -1, "an integer >= 0"),
        ("trial", True, "an integer >= 0"),
        ("trial", 1.0, "an integer >= 0"),
        ("cancelled", 1, "true or false"),
        ("status", "great", "one of ok, pruned, failed, crashed, timeout, out_of_memory"),
        ("values", 0.5, "a list, each item a finite number or null"),
        ("values", ["0.5"], "a list, each item a finite number or null"),
        ("model_digest", 7, "a string or null"),
    ],
)
def test_message_is_the_rule_that_failed(name: str, value: object, rule: str):
    data = {**result_record().to_dict(), name: value}
    with pytest.raises(ValueError) as caught:
        record_from_dict(data)
    assert str(caught.value) == f'"{name}" of a result record must be {rule}, got {value!r}'


def test_wrong_value_inside_an_object_is_refused():
    with pytest.raises(ValueError, match='"versions" of a job record must be an object, each value a string'):
        job_record(versions={"disttune": 1})
