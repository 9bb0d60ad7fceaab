"""A run directory belongs to one job and loses nothing that a run did not write."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from disttune.config.errors import JournalError, RunDirectoryError
from disttune.runtime.journal import JournalContents, read_journal
from disttune.runtime.journal_writer import Journal
from disttune.runtime.records import JobRecord, Record
from disttune.runtime.run_directory import RunDirectory, job_differences, version_differences
from disttune.runtime.semantics import CHANGES, semantics
from tests.runtime.sample_records import job_record, one_of_each, result_record

JOB_TEXT = 'strategy = "random"\n'
OUTPUTS = ("result.json", "trials.csv", "best.onnx", "best.onnx.data",
           "auto_search.log", "logs/rank-0.log", "logs/rank-12.log", "cache/deep/table.bin")  # fmt: skip
FOREIGN = ("notes.txt", "model.onnx", "logs/mine.log", "my_best.onnx", "lockers")


def run(path: Path, job: JobRecord | None = None, *records: Record, fresh: bool = False) -> JournalContents:
    """One session of a job that appends these records; what it found recorded."""
    with RunDirectory(path) as directory:
        contents = directory.open(fresh=fresh)
        with directory.adopt(job or job_record(), JOB_TEXT) as journal:
            for record in records:
                journal.append(record)
    return contents


def put(directory: Path, names: tuple[str, ...]) -> None:
    for name in names:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(name)


def files(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}


# Opening and going on


def test_new_directory_is_made_with_journal_and_job_file(tmp_path: Path):
    found = run(tmp_path / "a" / "run")
    assert found == JournalContents()
    assert files(tmp_path / "a" / "run") == {"journal.jsonl", "job.toml"}
    assert (tmp_path / "a" / "run" / "job.toml").read_text() == JOB_TEXT


def test_permissions_are_those_of_the_umask(tmp_path: Path):
    umask = os.umask(0o027)
    try:
        run(tmp_path / "run")
    finally:
        os.umask(umask)
    paths = [tmp_path / "run", tmp_path / "run" / "job.toml", tmp_path / "run" / "journal.jsonl"]
    assert [stat.S_IMODE(p.stat().st_mode) for p in paths] == [0o750, 0o640, 0o640]


def test_same_job_goes_on_with_what_is_recorded(tmp_path: Path):
    run(tmp_path, None, result_record(0), result_record(1))
    found = run(tmp_path, None, result_record(2))
    assert found.records == (job_record(), result_record(0), result_record(1))
    assert read_journal(tmp_path / "journal.jsonl").n_lines == 4


def test_directory_is_locked_while_open(tmp_path: Path):
    with RunDirectory(tmp_path) as directory:
        directory.open()
        directory.renew()
        with pytest.raises(RunDirectoryError, match=f"in use by process {os.getpid()} "):
            RunDirectory(tmp_path).open()
    run(tmp_path)


def test_failed_open_leaves_no_lock(tmp_path: Path):
    (tmp_path / "journal.jsonl").write_text('{"op_code": 1}\n')
    with pytest.raises(RunDirectoryError, match="no journal of disttune"):
        RunDirectory(tmp_path).open()
    assert files(tmp_path) == {"journal.jsonl"}


def test_damaged_journal_is_an_error_and_fresh_starts_anew(tmp_path: Path):
    run(tmp_path, None, result_record(0), result_record(1))
    text = (tmp_path / "journal.jsonl").read_text()
    (tmp_path / "journal.jsonl").write_text(text.replace('"trial":0', '"trial":7'))
    with pytest.raises(JournalError, match="line 2: "):
        run(tmp_path)
    run(tmp_path, fresh=True)
    assert read_journal(tmp_path / "journal.jsonl").records == (job_record(),)


@pytest.mark.parametrize("n_bytes", [0, 1, 200])
def test_job_killed_before_its_first_line_was_whole_starts_again(tmp_path: Path, n_bytes: int):
    run(tmp_path)
    os.truncate(tmp_path / "journal.jsonl", n_bytes)
    run(tmp_path, job_record(model_digest="77" * 16))
    assert read_journal(tmp_path / "journal.jsonl").job == job_record(model_digest="77" * 16)


def test_leftovers_of_a_killed_write_are_removed(tmp_path: Path):
    run(tmp_path)
    put(tmp_path, (".result.json.disttune-01234567", ".result.json.mine"))
    run(tmp_path)
    assert files(tmp_path) == {"journal.jsonl", "job.toml", ".result.json.mine"}


@pytest.mark.parametrize("make", [lambda p: p.write_text("x"), lambda p: p.symlink_to("/dev/null")])
def test_file_in_place_of_the_directory_is_one_message(tmp_path: Path, make: Callable[[Path], object]):
    make(tmp_path / "run")
    with pytest.raises(RunDirectoryError, match=r"run: this is a file; give a directory\."):
        RunDirectory(tmp_path / "run").open()


def test_directory_that_cannot_be_made_is_one_message(tmp_path: Path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunDirectoryError, match="cannot be made: Not a directory"):
        RunDirectory(tmp_path / "file" / "run").open()


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_directory_that_cannot_be_written_is_one_message(tmp_path: Path):
    (tmp_path / "run").mkdir(mode=0o500)
    with pytest.raises(RunDirectoryError, match="cannot be locked: Permission denied"):
        RunDirectory(tmp_path / "run").open()


# Another job


def test_another_job_is_refused_with_both_values_and_nothing_changes(tmp_path: Path):
    run(tmp_path, None, result_record(0))
    put(tmp_path, OUTPUTS)
    before = {name: (tmp_path / name).read_bytes() for name in files(tmp_path)}
    other = job_record(model_digest="ab" * 16, fingerprint={"accuracy.tolerable_loss": 0.02})
    with pytest.raises(RunDirectoryError) as caught:
        run(tmp_path, other)
    assert str(caught.value) == (
        f"{tmp_path}: the run directory holds another job.\n"
        "  model: the journal holds 111111111111, this job has abababababab\n"
        "  accuracy.tolerable_loss: the journal holds 0.01, this job has 0.02\n"
        '  quantization.op_types.Conv.weight: the journal holds "int8", this job has no value\n'
        "Give another run directory, or start anew in this one (--fresh, fresh=True): its results go."
    )
    assert {name: (tmp_path / name).read_bytes() for name in files(tmp_path)} == before


def test_another_job_in_which_nothing_was_measured_gives_way(tmp_path: Path):
    baseline, stage = one_of_each()[2], one_of_each()[4]
    run(tmp_path, None, baseline, stage)
    put(tmp_path, ("result.json", "logs/rank-0.log", "notes.txt"))
    other = job_record(code_digest="ab" * 16)

    found = run(tmp_path, other, result_record(0))

    assert [type(r) for r in found.records[1:]] == [type(baseline), type(stage)]
    assert read_journal(tmp_path / "journal.jsonl").records == (other, result_record(0))
    assert files(tmp_path) == {"journal.jsonl", "job.toml", "notes.txt"}


def test_the_contents_after_adopt_are_those_of_the_job_that_goes_on(tmp_path: Path):
    run(tmp_path, None, one_of_each()[2])
    with RunDirectory(tmp_path) as directory:
        directory.open()
        assert len(directory.contents.records) == 2
        other = job_record(code_digest="ab" * 16)
        directory.adopt(other, JOB_TEXT).close()
        assert directory.contents.records == (other,)


@pytest.mark.parametrize("record", [6, 8], ids=["probe", "trial"])
def test_one_measurement_is_enough_to_keep_a_job(tmp_path: Path, record: int):
    run(tmp_path, None, one_of_each()[record])
    with pytest.raises(RunDirectoryError, match="holds another job"):
        run(tmp_path, job_record(code_digest="ab" * 16))


def settled(path: Path, job: JobRecord, fresh: bool = False) -> str:
    """Name of the directory that a job takes when nobody asked for one; it leaves one measurement."""
    with RunDirectory(path, numbered=True) as directory:
        directory.open(fresh)
        directory.settle(job)
        journal = directory.adopt(job, JOB_TEXT)
        journal.append(result_record(0))
        journal.close()
        return directory.path.name


def test_where_nobody_asked_for_a_directory_each_job_has_one_and_finds_it_again(tmp_path: Path):
    jobs = [job_record(code_digest=letter * 32) for letter in "abc"]
    names = ["run", "run_2", "run_3"]
    assert [settled(tmp_path / "run", job) for job in jobs] == names
    assert [settled(tmp_path / "run", job) for job in reversed(jobs)] == names[::-1]
    assert settled(tmp_path / "run", jobs[1], fresh=True) == "run_2"
    assert [len(read_journal(tmp_path / n / "journal.jsonl").records) for n in names] == [3, 2, 3]
    assert {p.name for p in tmp_path.glob("*/lock")} == set()


def test_a_directory_with_files_that_no_run_wrote_is_left_out(tmp_path: Path):
    settled(tmp_path / "run", job_record())
    (tmp_path / "run_2").mkdir()
    (tmp_path / "run_2" / "best.onnx").write_bytes(b"mine")
    assert settled(tmp_path / "run", job_record(code_digest="ab" * 16)) == "run_3"


@pytest.mark.parametrize("name", ["model_digest", "data_digest", "code_digest"])
def test_each_digest_counts(name: str):
    (difference,) = job_differences(job_record(), job_record(**{name: "ff" * 16}))
    assert (difference.name, difference.current) == (name.removesuffix("_digest"), "f" * 12)


def test_time_versions_and_the_kind_of_sequence_do_not_count():
    recorded = job_record(fingerprint={"a.list": [1, [2]], "a.dict": {"x": 1, "y": 2}})
    current = job_record(
        t=5.0, versions={"disttune": "0.2"}, fingerprint={"a.dict": {"y": 2, "x": 1}, "a.list": (1, (2,))}
    )
    assert job_differences(recorded, current) == ()


def test_changed_versions_are_told():
    changes = version_differences(
        job_record(), job_record(versions={"disttune": "0.2", "onnxruntime": "1.31.1"})
    )
    assert [str(c) for c in changes] == ['disttune: the journal holds "0.1.0", this job has "0.2"']


@pytest.mark.parametrize(
    ("key_now", "strategy_now", "named"),
    [("random", "random", []), ("random", "tpe", ["strategy"]), ("tpe", "tpe", ["tuning.strategy"])],
)
def test_strategy_is_named_once(key_now: str, strategy_now: str, named: list[str]):
    recorded = job_record(fingerprint={"tuning.strategy": "random"})
    current = job_record(fingerprint={"tuning.strategy": key_now}, strategy=strategy_now)
    assert [d.name for d in job_differences(recorded, current)] == named


def test_long_values_are_shown_where_they_differ():
    recorded = job_record(fingerprint={"tuning.list": [*range(500)]})
    current = job_record(fingerprint={"tuning.list": [*range(400), 1000, *range(401, 500)]})
    (difference,) = job_differences(recorded, current)
    assert ", 400, 401, " in difference.recorded
    assert ", 1000, 401, " in difference.current
    assert max(len(difference.recorded), len(difference.current)) < 100


# Starting anew


def test_fresh_removes_what_a_run_wrote_and_nothing_else(tmp_path: Path):
    run(tmp_path, None, result_record(0))
    put(tmp_path, OUTPUTS + FOREIGN)
    found = run(tmp_path, job_record(model_digest="ab" * 16), fresh=True)
    assert found == JournalContents()
    assert files(tmp_path) == {"journal.jsonl", "job.toml", *FOREIGN}
    assert read_journal(tmp_path / "journal.jsonl").records == (job_record(model_digest="ab" * 16),)


def test_fresh_removes_nothing_until_the_new_job_is_known(tmp_path: Path):
    run(tmp_path, None, result_record(0))
    put(tmp_path, OUTPUTS)
    with RunDirectory(tmp_path) as directory:
        directory.open(fresh=True)  # then the model turns out to be unusable
    assert files(tmp_path) == {"journal.jsonl", "job.toml", *OUTPUTS}
    assert read_journal(tmp_path / "journal.jsonl").n_lines == 2


def test_fresh_follows_no_links(tmp_path: Path):
    put(tmp_path / "elsewhere", ("cache/a", "rank-0.log", "best.onnx"))
    run(tmp_path / "run")
    for name in ("cache", "best.onnx"):
        (tmp_path / "run" / name).symlink_to(tmp_path / "elsewhere" / name)
    run(tmp_path / "run", fresh=True)
    assert files(tmp_path / "elsewhere") == {"cache/a", "rank-0.log", "best.onnx"}
    assert not (tmp_path / "run" / "best.onnx").is_symlink()


@pytest.mark.parametrize("fresh", [False, True])
def test_directory_with_foreign_files_is_used_and_not_cleaned(tmp_path: Path, fresh: bool):
    put(tmp_path, (*FOREIGN, "logs/rank-0.log", "cache/x"))
    run(tmp_path, fresh=fresh)
    assert files(tmp_path) == {"journal.jsonl", "job.toml", *FOREIGN, "logs/rank-0.log", "cache/x"}


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("name", ["job.toml", "best.onnx", "result.json", "trials.csv"])
def test_file_that_no_run_wrote_is_never_overwritten(tmp_path: Path, name: str, fresh: bool):
    put(tmp_path, (name,))
    with pytest.raises(RunDirectoryError, match=f"{name} would be overwritten.* another run directory"):
        run(tmp_path, fresh=fresh)
    assert files(tmp_path) == {name}


@pytest.mark.parametrize("fresh", [False, True])
def test_journal_of_another_program_is_never_touched(tmp_path: Path, fresh: bool):
    (tmp_path / "journal.jsonl").write_text('{"op_code": 1}')
    with pytest.raises(RunDirectoryError, match="no journal of disttune"):
        run(tmp_path, fresh=fresh)
    assert (tmp_path / "journal.jsonl").read_text() == '{"op_code": 1}'


def test_fresh_with_an_empty_directory_is_a_new_job(tmp_path: Path):
    run(tmp_path / "run", fresh=True)
    assert files(tmp_path / "run") == {"journal.jsonl", "job.toml"}


def test_journal_is_open_for_appending_after_adopt(tmp_path: Path):
    with RunDirectory(tmp_path) as directory:
        directory.open()
        journal = directory.adopt(job_record(), JOB_TEXT)
        assert isinstance(journal, Journal)
        assert (journal.durable, journal.session) == (1, 1)
        journal.close()


# After an upgrade of disttune


def test_journal_of_another_version_goes_on(tmp_path: Path):
    older = job_record(versions={"disttune": "0.0.9", "onnxruntime": "1.31.1"}, semantics={})
    run(tmp_path / "run", older, result_record())

    found = run(tmp_path / "run", job_record(semantics=semantics()))

    assert found.n_results == 1


def test_key_that_the_recorded_version_did_not_know_may_stand_at_its_default():
    keys = {"accuracy.tolerable_loss": 0.01}
    older, newer = job_record(fingerprint=keys), keys | {"tuning.batch_size": 16}
    assert job_differences(older, job_record(fingerprint=newer)) == ()
    changed = job_record(fingerprint=newer | {"tuning.batch_size": 8})
    assert [d.name for d in job_differences(older, changed)] == ["tuning.batch_size"]


@pytest.mark.parametrize(
    ("recorded", "current", "sentence"),
    [
        ({}, {"metrics": 2}, "  metrics: since then top1 counts ties"),
        ({"metrics": 2}, {"metrics": 1}, "  metrics: a later disttune makes them in another way"),
    ],
)
def test_results_that_would_come_out_different_now_are_refused_and_the_change_named(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    recorded: dict[str, int],
    current: dict[str, int],
    sentence: str,
):
    monkeypatch.setitem(CHANGES, "metrics", ("top1 counts ties",))
    run(tmp_path / "run", job_record(semantics=recorded), result_record())
    before = (tmp_path / "run" / "journal.jsonl").read_bytes()

    with pytest.raises(RunDirectoryError) as caught:
        run(tmp_path / "run", job_record(semantics=current))

    assert sentence in str(caught.value)
    assert "disttune 0.1.0 has measured these trials in another way" in str(caught.value)
    assert "Go on with that version" in str(caught.value)
    assert (tmp_path / "run" / "journal.jsonl").read_bytes() == before
