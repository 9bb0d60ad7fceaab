"""The journal keeps every record, or says which line it cannot read."""

import json
import re
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from disttune.config.errors import JournalError
from disttune.runtime.journal import JournalContents, encode_line, is_journal, parse_journal, read_journal
from disttune.runtime.journal_writer import Journal
from disttune.runtime.records import DeadlineRecord, Record
from tests.runtime.sample_records import ANY_RECORD, job_record, one_of_each

PATH = Path("journal.jsonl")


def sample_lines() -> list[bytes]:
    return [encode_line(n, 1, record) for n, record in enumerate(one_of_each(), start=1)]


SAMPLE = b"".join(sample_lines())


def with_checksum(body: bytes) -> bytes:
    return b'%s,"crc":"%08x"}\n' % (body, zlib.crc32(body))


def line_of(n: int, **values: object) -> bytes:
    """A line with a right checksum and any content."""
    data = {"n": n, "session": 1, **values}
    return with_checksum(json.dumps(data, separators=(",", ":"))[:-1].encode())


def written(path: Path, *records: Record) -> JournalContents:
    """Contents of a journal after these records were appended and it was closed."""
    with Journal(path) as journal:
        for record in records:
            journal.append(record)
    return read_journal(path)


# Reading back


def test_records_come_back_in_order(tmp_path: Path):
    contents = written(tmp_path / "journal.jsonl", *one_of_each())
    assert contents == JournalContents(tuple(one_of_each()), False, len(one_of_each()), len(SAMPLE))


@given(st.lists(ANY_RECORD, max_size=5))
def test_any_records_come_back(records: list[Record]):
    records = [job_record(), *records]
    data = b"".join(encode_line(n, 1, record) for n, record in enumerate(records, start=1))
    assert parse_journal(data, PATH).records == tuple(records)


def crc32_bit_by_bit(data: bytes) -> int:
    """Oracle: the CRC-32 of IEEE 802.3, reflected polynomial 0xEDB88320, as its definition says."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0xEDB88320 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def test_line_is_json_with_the_checksum_last():
    line = encode_line(2, 1, DeadlineRecord(t=1.0, trial_timeout_s=60.0))
    body = b'{"n":2,"session":1,"kind":"deadline","t":1.0,"trial_timeout_s":60.0'
    assert line == body + b',"crc":"%08x"}\n' % crc32_bit_by_bit(body)
    assert json.loads(line)["trial_timeout_s"] == 60.0


def test_empty_file_is_an_empty_journal():
    assert parse_journal(b"", PATH) == JournalContents()


def test_missing_journal_is_one_message(tmp_path: Path):
    with pytest.raises(JournalError, match="journal cannot be read: No such file"):
        read_journal(tmp_path / "journal.jsonl")


def test_contents_tell_job_sessions_and_seconds():
    contents = parse_journal(SAMPLE, PATH)
    assert (contents.job, contents.n_sessions, contents.seconds) == (job_record(), 1, 4.0)


def test_unknown_keys_are_ignored():
    data = SAMPLE + line_of(14, kind="deadline", t=9.0, trial_timeout_s=1.0, added_later=[1])
    assert parse_journal(data, PATH).records[-1] == DeadlineRecord(t=9.0, trial_timeout_s=1.0)


# Damage


def test_journal_cut_at_any_byte_gives_the_whole_lines_before():
    for length in range(len(SAMPLE)):
        n_whole = SAMPLE[:length].count(b"\n")
        contents = parse_journal(SAMPLE[:length], PATH)
        assert contents.records == tuple(one_of_each()[:n_whole])
        assert contents.torn == (not SAMPLE[:length].endswith(b"\n") and length > 0)
        assert SAMPLE[: contents.n_bytes] == b"".join(sample_lines()[:n_whole])


@pytest.mark.parametrize("bit", range(8))
def test_flipped_bit_never_gives_a_wrong_record(bit: int):
    records = tuple(one_of_each())
    for i in range(len(SAMPLE)):
        contents = parsed_or_none(SAMPLE[:i] + bytes([SAMPLE[i] ^ 1 << bit]) + SAMPLE[i + 1 :])
        assert contents is None or (contents.records, contents.torn) == (records[:-1], True)


def parsed_or_none(data: bytes) -> JournalContents | None:
    """None stands for an error that names a line."""
    try:
        return parse_journal(data, PATH)
    except JournalError as error:
        return None if re.match(r"journal\.jsonl, line \d+: ", str(error)) else pytest.fail(str(error))


@pytest.mark.parametrize("garbage", [b"\n", b"{}\n", b"null\n", b"\0" * 100 + b"\n", b"\xff\xfe\n", b"\r\n"])
def test_garbage_between_lines_is_an_error_that_names_the_line(garbage: bytes):
    lines = sample_lines()
    for number in range(2, len(lines) + 1):
        data = b"".join(lines[: number - 1]) + garbage + b"".join(lines[number - 1 :])
        with pytest.raises(JournalError, match=f"line {number}: "):
            parse_journal(data, PATH)


@pytest.mark.parametrize("garbage", [b"\n", b"{", b"\0" * 4096, b'{"n":13,"session":1,"ki', b"junk\n"])
def test_garbage_at_the_end_is_a_torn_line(garbage: bytes):
    assert parse_journal(SAMPLE + garbage, PATH) == JournalContents(
        tuple(one_of_each()), True, len(one_of_each()), len(SAMPLE)
    )


def test_two_bad_lines_at_the_end_are_an_error():
    with pytest.raises(JournalError, match="line 14: the checksum is missing or does not match"):
        parse_journal(SAMPLE + b"junk\njunk\n", PATH)


def test_last_two_lines_run_together_are_an_error():
    lines = sample_lines()
    for end in (b"", b"\n"):
        data = b"".join(lines[:-2]) + lines[-2].rstrip(b"\n") + b"x" + lines[-1].rstrip(b"\n") + end
        with pytest.raises(JournalError, match="line 12: it runs on after its checksum"):
            parse_journal(data, PATH)


@pytest.mark.parametrize(
    ("order", "line"), [([0, 2], 2), ([0, 1, 1], 3), ([0, 2, 1], 2), ([0, 1, 3, 2, 4], 3)]
)
def test_removed_doubled_and_moved_lines_are_noticed(order: list[int], line: int):
    with pytest.raises(JournalError, match=f"line {line}: it is numbered"):
        parse_journal(b"".join(sample_lines()[i] for i in order), PATH)


@pytest.mark.parametrize("data", [b"hello", b'{"n":2', b"PK\x03\x04", sample_lines()[1], b'["a"]\n'])
def test_another_file_is_refused_and_not_taken_for_a_torn_journal(data: bytes):
    with pytest.raises(JournalError, match="line 1: this is not how a journal begins"):
        parse_journal(data, PATH)


def test_damage_is_told_with_the_mend():
    lines = sample_lines()
    data = b"".join(lines[:4]) + lines[4].replace(b"all", b"ALL") + b"".join(lines[5:])
    with pytest.raises(JournalError) as caught:
        parse_journal(data, PATH)
    assert str(caught.value) == (
        "journal.jsonl, line 5: the checksum is missing or does not match: the line was changed or damaged. "
        "Restore the file from a copy, keep what stands before it (head -n 4), or start anew "
        "(--fresh, fresh=True)."
    )


def test_unknown_kind_names_the_disttune_that_wrote_it():
    data = sample_lines()[0] + line_of(2, kind="dream", t=0.0)
    with pytest.raises(JournalError, match=r'line 2: no kind of record "dream".*written by disttune 0.1.0'):
        parse_journal(data, PATH)


def test_unknown_format_names_the_disttune_that_wrote_it():
    data = line_of(1, kind="job", format=2, versions={"disttune": "7.0"}, shape="new")
    with pytest.raises(
        JournalError, match=r"line 1: .* format 2; .* reads format 1.*written by disttune 7.0"
    ):
        parse_journal(data, PATH)


@pytest.mark.parametrize("versions", [None, 3, {}, {"disttune": 4}])
def test_unknown_format_without_a_version_is_one_message(versions: object):
    with pytest.raises(JournalError, match="format None"):
        parse_journal(line_of(1, kind="job", versions=versions), PATH)


@pytest.mark.parametrize("session", [0, "1", None, True])
def test_wrong_session_is_an_error_with_its_line(session: object):
    data = sample_lines()[0] + line_of(2, session=session, kind="deadline", t=0.0, trial_timeout_s=1.0)
    with pytest.raises(JournalError, match='line 2: "session" must be an integer >= 1'):
        parse_journal(data, PATH)


def test_wrong_type_and_missing_key_are_errors_with_line_and_field():
    data = sample_lines()[0] + line_of(2, kind="finish", t="soon", status="goal_met", stop_reason="goal")
    with pytest.raises(JournalError, match='line 2: "t" of a finish record must be a finite number'):
        parse_journal(data, PATH)
    with pytest.raises(JournalError, match="line 2: a finish record lacks stop_reason"):
        parse_journal(sample_lines()[0] + line_of(2, kind="finish", t=1.0, status="goal_met"), PATH)


@pytest.mark.parametrize("body", [b'{"n":2', b"[1", b'{"n":2,"a":' + b"[" * 100000, b'{"n":' + b"9" * 9999])
def test_line_with_a_right_checksum_that_is_not_json_is_one_message(body: bytes):
    with pytest.raises(JournalError, match="line 2: "):
        parse_journal(sample_lines()[0] + with_checksum(body), PATH)


def test_is_journal_looks_at_the_beginning_only(tmp_path: Path):
    path = tmp_path / "x"
    answers = []
    for data in (b"", SAMPLE, SAMPLE[:20], SAMPLE[:100] + b"junk", b'{"op_code": 1}', b"\0"):
        path.write_bytes(data)
        answers.append(is_journal(path))
    assert answers == [True, True, True, True, False, False]
