"""A disk that refuses the journal: told, waited for, then the job goes on in memory."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from disttune.runtime.journal import read_journal
from disttune.runtime.journal_watch import JournalWatch, UnwrittenError
from disttune.runtime.journal_writer import Journal
from tests.runtime.sample_records import one_of_each
from tests.runtime.test_journal_writing import largest_file

JOB, *REST = one_of_each()


def until(condition: Callable[[], bool]) -> None:
    end_s = time.monotonic() + 10.0
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.01)


def test_job_goes_on_in_memory_and_all_is_written_when_there_is_room(tmp_path: Path):
    told: list[str] = []
    with Journal(tmp_path / "journal.jsonl", retry_s=0.05) as journal:
        watch = JournalWatch(journal, told.append, patience_s=30.0)
        journal.wait(journal.append(JOB))
        with largest_file(0):
            last = [journal.append(record) for record in REST][-1]
            until(lambda: journal.failure is not None)
            counts = []
            for now_s in (0.0, 20.0, 31.0, 60.0):
                watch.check(now_s, is_ending=False)
                counts.append(journal.durable)
        until(lambda: journal.failure is None)
        watch.check(70.0, is_ending=False)

        assert counts == [1, 1, last, last]
        assert journal.durable == last
    assert [text.count("GOES ON IN MEMORY") for text in told] == [0, 1, 0]
    assert told[2].endswith("is written again")
    assert read_journal(tmp_path / "journal.jsonl").n_lines == last


def test_job_that_is_asked_to_end_does_not_wait_for_room(tmp_path: Path):
    with Journal(tmp_path / "journal.jsonl", retry_s=0.05) as journal:
        journal.wait(journal.append(JOB))
        with largest_file(0):
            journal.append(REST[0])
            until(lambda: journal.failure is not None)
            watch = JournalWatch(journal, lambda text: None)
            with pytest.raises(UnwrittenError, match=r"asked to end\. Make room, then run the same"):
                watch.check(0.0, is_ending=True)
