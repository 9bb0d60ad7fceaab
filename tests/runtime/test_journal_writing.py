"""Appending to the journal: durable when it says so, whatever the disk or a kill does."""

import errno
import os
import resource
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from disttune.config.errors import InternalError, JournalError
from disttune.runtime.journal import JournalContents, encode_line, read_journal
from disttune.runtime.journal_writer import Journal
from disttune.runtime.records import Record, ResultRecord, SessionRecord
from tests.runtime.sample_records import job_record, one_of_each, result_record

SAMPLE = b"".join(encode_line(n, 1, record) for n, record in enumerate(one_of_each(), start=1))
ROOT = Path(__file__).parents[2]


def written(path: Path, *records: Record) -> JournalContents:
    """Contents of a journal after these records were appended and it was closed."""
    with Journal(path) as journal:
        for record in records:
            journal.append(record)
    return read_journal(path)


# Appending


def test_sequence_numbers_go_on_in_a_later_session(tmp_path: Path):
    path = tmp_path / "journal.jsonl"
    written(path, *one_of_each())
    with Journal(path) as journal:
        assert journal.session == 2
        assert journal.append(result_record(7)) == len(one_of_each()) + 1
    assert b'"session":2' in path.read_bytes().splitlines()[-1]


@pytest.mark.parametrize("torn_line", [b'{"n":13,"sess', b'{"n":13' + b" " * 1000, b"\0" * 4096])
def test_torn_line_is_cut_off_before_the_next(tmp_path: Path, torn_line: bytes):
    path = tmp_path / "journal.jsonl"
    path.write_bytes(SAMPLE + torn_line)
    contents = written(path, result_record(5))
    assert (contents.records, contents.torn) == ((*one_of_each(), result_record(5)), False)


def test_record_is_durable_after_wait_and_in_the_file(tmp_path: Path):
    with Journal(tmp_path / "journal.jsonl") as journal:
        number = journal.append(job_record())
        assert journal.wait(number)
        assert journal.durable == number
        assert read_journal(journal.path).records == (job_record(),)


def test_records_reach_the_disk_without_anyone_waiting(tmp_path: Path):
    with Journal(tmp_path / "journal.jsonl") as journal:
        journal.append(job_record())
        assert select.select([journal], [], [], 5.0)[0] == [journal]
        journal.clear()
        assert journal.durable == 1
        assert select.select([journal], [], [], 0.0)[0] == []


def test_records_of_a_burst_share_few_syncs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    n_syncs = count_calls(monkeypatch, "fsync")
    with Journal(tmp_path / "journal.jsonl", group_s=10.0) as journal:
        journal.append(job_record())
        journal.flush()
        n_before = len(n_syncs)
        for trial in range(1000):
            journal.append(result_record(trial))
        journal.flush()
    assert len(n_syncs) - n_before == 1
    assert read_journal(tmp_path / "journal.jsonl").n_lines == 1001


def count_calls(monkeypatch: pytest.MonkeyPatch, name: str) -> list[int]:
    """A list that grows by one with each call of this function of `os`."""
    calls: list[int] = []
    original = getattr(os, name)

    def counted(*args: object) -> object:
        calls.append(1)
        return original(*args)

    monkeypatch.setattr(os, name, counted)
    return calls


def test_threads_append_in_one_order(tmp_path: Path):
    with Journal(tmp_path / "journal.jsonl", group_s=0.001) as journal:
        journal.append(job_record())
        threads = [
            threading.Thread(target=lambda: [journal.append(result_record(i)) for i in range(100)])
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert read_journal(tmp_path / "journal.jsonl").n_lines == 401


def test_value_that_json_cannot_hold_is_refused_and_leaves_no_line(tmp_path: Path):
    with Journal(tmp_path / "journal.jsonl") as journal:
        for value in (float("nan"), object()):
            with pytest.raises((ValueError, TypeError)):
                journal.append(job_record(fingerprint={"x": value}))
        assert journal.append(job_record()) == 1
    assert read_journal(tmp_path / "journal.jsonl").n_lines == 1


def test_closed_journal_takes_nothing(tmp_path: Path):
    journal = Journal(tmp_path / "journal.jsonl")
    assert journal.close()
    assert journal.close()
    with pytest.raises(InternalError, match="after the journal was closed"):
        journal.append(job_record())


def test_waiting_for_a_record_that_was_never_appended_is_an_error(tmp_path: Path):
    with Journal(tmp_path / "journal.jsonl") as journal, pytest.raises(InternalError):
        journal.wait(1)


def test_journal_in_a_missing_directory_is_one_message(tmp_path: Path):
    with pytest.raises(JournalError, match="cannot be written: No such file"):
        Journal(tmp_path / "no" / "journal.jsonl")


def test_journal_that_shrank_since_it_was_read_is_an_error(tmp_path: Path):
    path = tmp_path / "journal.jsonl"
    contents = written(path, *one_of_each())
    path.write_bytes(SAMPLE[:50])
    with pytest.raises(JournalError, match="shorter since it was read"):
        Journal(path, contents)


# A disk that refuses


@contextmanager
def largest_file(n_bytes: int) -> Iterator[None]:
    """Files may not grow past a size: the kernel writes what fits, then refuses."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_full_disk_is_told_and_nothing_is_lost_once_there_is_room(tmp_path: Path):
    journal = Journal(tmp_path / "journal.jsonl", retry_s=0.05)
    with largest_file(len(SAMPLE) // 2):
        for record in one_of_each():
            journal.append(record)
        assert not journal.flush()
        assert journal.failure is not None
        assert journal.failure.errno == errno.EFBIG
        assert journal.append(result_record(9)) == len(one_of_each()) + 1
    while journal.failure is not None:
        assert select.select([journal], [], [], 5.0)[0]
        journal.clear()
    assert journal.close()
    assert read_journal(journal.path).records == (*one_of_each(), result_record(9))


def test_journal_of_a_killed_job_on_a_full_disk_can_be_read(tmp_path: Path):
    journal = Journal(tmp_path / "journal.jsonl", retry_s=60.0)
    with largest_file(len(SAMPLE) // 2):
        for record in one_of_each():
            journal.append(record)
        journal.flush()
        contents = read_journal(journal.path)
        assert not journal.close()
    assert contents.records == tuple(one_of_each()[: contents.n_lines])


def test_failed_sync_writes_everything_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    journal = Journal(tmp_path / "journal.jsonl", retry_s=60.0)
    journal.append(job_record())
    journal.flush()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail_with(errno.EIO))
        journal.append(result_record(1))
        assert not journal.flush()
        assert journal.durable == 1
    os.truncate(journal.path, 10_000)  # what the kernel holds after a failed sync is anybody's guess
    assert journal.flush()
    assert journal.failure is None
    journal.close()
    contents = read_journal(journal.path)
    assert (contents.records, contents.torn) == ((job_record(), result_record(1)), False)


def fail_with(code: int) -> Callable[..., None]:
    def fail(*args: object) -> None:
        raise OSError(code, os.strerror(code))

    return fail


def test_removed_journal_is_a_failure(tmp_path: Path):
    with Journal(tmp_path / "journal.jsonl") as journal:
        journal.path.unlink()
        number = journal.append(job_record())
        assert not journal.wait(number)
        assert "removed or replaced" in str(journal.failure)


def test_wait_gives_up_when_time_is_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    let_go = threading.Event()
    original = os.fsync
    journal = Journal(tmp_path / "journal.jsonl")
    monkeypatch.setattr(os, "fsync", lambda fd: (let_go.wait(5.0), original(fd)))
    number = journal.append(job_record())
    assert not journal.wait(number, timeout_s=0.01)
    let_go.set()
    assert journal.wait(number)
    journal.close()


# Kills

WRITER = """
import sys
from pathlib import Path
from disttune.runtime.journal_writer import Journal
from tests.runtime.sample_records import job_record, result_record
journal = Journal(Path(sys.argv[1]), group_s=0.0)
journal.append(job_record())
for trial in range(100000):
    number = journal.append(result_record(trial))
    if trial % 3 == 0:
        journal.wait(number)
        print(number, flush=True)
"""


@pytest.mark.parametrize("n_told", [1, 40, 97])
def test_what_was_durable_survives_a_kill(tmp_path: Path, n_told: int):
    path = tmp_path / "journal.jsonl"
    command = [sys.executable, "-c", WRITER, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout is not None
        told = [int(process.stdout.readline()) for _ in range(n_told)]
        process.send_signal(signal.SIGKILL)
    records = read_journal(path).records
    assert len(records) >= told[-1]
    trials = [r.trial for r in records if isinstance(r, ResultRecord)]
    assert trials == list(range(len(trials)))


def test_session_number_counts_the_starts(tmp_path: Path):
    path = tmp_path / "journal.jsonl"
    written(path, job_record())
    for expected in (1, 2, 3):
        with Journal(path) as journal:
            assert journal.session == expected
            journal.append(
                SessionRecord(t=0.0, number=expected, n_ranks=1, hosts=("a",), started="", cpus={})
            )
