"""A disk that takes nothing more: said once, nothing that is not on disk counts, and the job goes on later.

The limit on the size of files of a running process stands for the disk.
"""

import resource
import signal
import time
from pathlib import Path

import psutil
import pytest

from disttune.runtime.records import CommitRecord
from tests.distributed.jobs import make_job, records, rows, table
from tests.distributed.launch import Launched, disttune, run

SLEEPING = "time.sleep(0.1 if n >= 0 else 0.5)"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("job")
    run(disttune("tune", make_job(folder, SLEEPING, max_trials=8), "-o", folder / "undisturbed"))
    return folder / "undisturbed"


def fill_disk(process: psutil.Process, n_bytes: int) -> None:
    """Let a process write no file beyond this size."""
    process.rlimit(resource.RLIMIT_FSIZE, (n_bytes, resource.RLIM_INFINITY))


def make_room(process: psutil.Process) -> None:
    process.rlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def test_job_waits_for_room_for_its_journal_and_tells_nothing_that_is_not_on_disk(undisturbed: Path):
    path = undisturbed.parent / "waiting"
    job = Launched(disttune("tune", undisturbed.parent / "job.toml", "-o", path))
    job.wait_for("trial 1 ")
    agent = job.agents()[0]
    fill_disk(agent, (path / "journal.jsonl").stat().st_size)
    job.wait_for("warning: ")
    time.sleep(0.5)
    told = job.said().count(" misses the goal")
    on_disk = len(records(path, CommitRecord))
    make_room(agent)

    ended = job.wait()

    assert ended.code == 3, ended.text
    assert told <= on_disk + 1  # the record of the last commit may be the first that did not fit
    assert ended.stdout.count("journal.jsonl: cannot be written: File too large") == 1
    assert ended.stdout.count("journal.jsonl: is written again") == 1
    assert table(path) == table(undisturbed)


def test_job_that_is_asked_to_end_meanwhile_ends_with_75_and_goes_on_later(undisturbed: Path):
    path = undisturbed.parent / "ended"
    command = disttune("tune", undisturbed.parent / "job.toml", "-o", path)
    job = Launched(command)
    job.wait_for("trial 1 ")
    fill_disk(job.agents()[0], (path / "journal.jsonl").stat().st_size)
    job.wait_for("warning: ")
    job.signal(signal.SIGTERM)

    ended = job.wait(5.0)

    assert ended.code == 75, ended.text
    assert "Traceback" not in ended.text
    assert "run the same command again" in ended.stderr
    assert run(command).code == 3
    assert table(path) == table(undisturbed)


def test_model_that_cannot_be_written_is_no_success(undisturbed: Path):
    path = undisturbed.parent / "no-export"
    command = disttune("tune", undisturbed.parent / "job.toml", "-o", path)
    job = Launched(command)
    job.wait_for("measuring the float model")
    (path / "best.onnx").mkdir()

    ended = job.wait()

    assert ended.code == 2, ended.text
    assert "Traceback" not in ended.text
    assert f"{path}/best.onnx: the model cannot be written: Is a directory" in ended.stderr
    (path / "best.onnx").rmdir()
    assert run(command).code == 3
    assert (path / "best.onnx").read_bytes() == (undisturbed / "best.onnx").read_bytes()


@pytest.mark.parametrize("engine", ["fast", "reference"])
def test_no_room_for_files_of_the_quantizer_ends_the_job_and_fails_no_candidate(tmp_path: Path, engine: str):
    job_file = make_job(tmp_path, SLEEPING, quantization=f'engine = "{engine}"', max_trials=3)
    command = disttune("tune", job_file, "-o", tmp_path / "run")
    job = Launched(command)
    job.wait_for("measuring the float model")
    fill_disk(job.trial_processes()[0], 0)

    ended = job.wait()

    assert ended.code == 2, ended.text
    assert "Traceback" not in ended.text
    assert "cannot be written" in ended.stderr
    assert "File too large" in ended.stderr
    assert "Make room" in ended.stderr
    assert run(command).code == 3
    assert [row["status"] for row in table(tmp_path / "run")] == ["ok"] * 3


def test_job_ends_in_memory_and_its_results_go_to_the_second_place(undisturbed: Path):
    path, second = undisturbed.parent / "full", undisturbed.parent / "second"
    command = disttune("tune", undisturbed.parent / "job.toml", "-o", path, "--also-to", second)
    job = Launched(in_memory_at_once(command))
    job.wait_for("trial 1 ")
    (path / "best.onnx").unlink(missing_ok=True)  # while trials are quick it is written late
    spoil(path, "best.onnx", "result.json")
    fill_disk(psutil.Process(job.process.pid), (path / "journal.jsonl").stat().st_size)

    ended = job.wait()

    assert ended.code == 3, ended.text
    assert "THE JOB GOES ON IN MEMORY" in ended.text
    assert table(second) == table(undisturbed)
    assert (second / "best.onnx").read_bytes() == (undisturbed / "best.onnx").read_bytes()


def test_without_a_second_place_the_results_are_on_stdout(undisturbed: Path):
    path = undisturbed.parent / "stdout"
    job = Launched(in_memory_at_once(disttune("tune", undisturbed.parent / "job.toml", "-o", path)))
    job.wait_for("trial 1 ")
    spoil(path, "result.json")
    fill_disk(psutil.Process(job.process.pid), (path / "journal.jsonl").stat().st_size)

    ended = job.wait()

    assert ended.code == 2, ended.text
    assert "on stdout; --also-to DIR names a second place" in ended.stderr
    csv_at = ended.stdout.index("trial,stage,digest")
    assert rows(ended.stdout[csv_at:]) == table(undisturbed)
    assert '"status": "goal_not_met"' in ended.stdout[:csv_at]


def spoil(path: Path, *names: str) -> None:
    """Let these files not be written, also by root."""
    for name in names:
        (path / name).mkdir()


def in_memory_at_once(command: list[str]) -> list[str]:
    """The same command with hardly any patience for the disk."""
    code = (
        "import sys; from disttune.runtime import journal_watch, master; "
        "watch = journal_watch.JournalWatch; "
        "master.JournalWatch = lambda journal, warn: watch(journal, warn, 0.2); "
        "from disttune.cli import main; sys.exit(main())"
    )
    python, _, _, *arguments = command
    return [python, "-c", code, *arguments]
