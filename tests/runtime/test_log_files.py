"""Logs of the ranks grow up to a size and never end a job."""

from pathlib import Path

from disttune.runtime.log_files import LogFiles


def test_text_is_appended_to_the_log_of_its_rank(tmp_path: Path):
    logs = LogFiles(lambda: tmp_path / "logs")
    for rank, text in ((0, "a\n"), (3, "b\n"), (0, "c\n")):
        logs.append(rank, text)
    assert logs.path(0).read_text() == "a\nc\n"
    assert (tmp_path / "logs" / "rank-3.log").read_text() == "b\n"


def test_log_is_cut_at_its_limit_and_says_so_once(tmp_path: Path):
    notice = "\n[log cut: it has reached 10 bytes; what follows is dropped]\n"
    logs = LogFiles(lambda: tmp_path, limit_bytes=10)
    logs.append(0, "12345678")
    for _ in range(3):
        logs.append(0, "äöü")  # two bytes each: the limit falls between two letters
    assert logs.path(0).read_text() == "12345678ä" + notice


def test_limit_counts_earlier_sessions_and_cuts_no_letter(tmp_path: Path):
    LogFiles(lambda: tmp_path, limit_bytes=10).append(0, "123456789")
    LogFiles(lambda: tmp_path, limit_bytes=10).append(0, "äöü")
    assert logs_text(tmp_path).startswith("123456789\n[log cut")
    LogFiles(lambda: tmp_path, limit_bytes=10).append(0, "more")
    assert logs_text(tmp_path).endswith("is dropped]\n")


def logs_text(directory: Path) -> str:
    return (directory / "rank-0.log").read_text()


def test_log_that_cannot_be_written_is_remembered_and_ends_nothing(tmp_path: Path):
    (tmp_path / "logs").write_text("a file in its place")
    logs = LogFiles(lambda: tmp_path / "logs")
    logs.append(0, "text")
    assert isinstance(logs.failure, OSError)


def test_any_text_can_be_logged(tmp_path: Path):
    LogFiles(lambda: tmp_path).append(0, "lone surrogate \ud800\n")
    assert logs_text(tmp_path) == "lone surrogate \\ud800\n"
