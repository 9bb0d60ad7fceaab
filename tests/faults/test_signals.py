"""Signals that ask a job to end: what runs may end, the best model is there, the same command goes on."""

import signal
import time
from pathlib import Path

import pytest

from disttune.runtime.batch_job import RESERVE_S
from disttune.runtime.records import Record
from tests.distributed.jobs import make_job, records, table
from tests.distributed.launch import Ended, Launched, disttune, mpirun, run

SLEEPING = "time.sleep(0.15)"
HANGING = "time.sleep(600 if n == 2 else 0)"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("job")
    run(disttune("tune", make_job(folder, SLEEPING), "-o", folder / "undisturbed"))
    return folder / "undisturbed"


def interrupted(command: list[str], text: str, number: int) -> Ended:
    """Start a command, send it a signal once it has said this."""
    session = Launched(command)
    session.wait_for(text)
    session.signal(number)
    return session.wait(20.0)


def test_job_ends_with_75_and_goes_on_whatever_signal_asks_it_to(undisturbed: Path):
    path = undisturbed.parent / "signals"
    command = disttune("tune", undisturbed.parent / "job.toml", "-o", path)
    signals = {"trial 1 ": signal.SIGINT, "trial 4 ": signal.SIGTERM, "trial 7 ": signal.SIGUSR1}

    for row, number in signals.items():
        ended = interrupted(command, row, number)

        assert ended.code == 75, ended.text
        assert (path / "best.onnx").is_file()
        assert "Traceback" not in ended.text
        assert ended.left == ()
    assert run(command).code == 3
    assert table(path) == table(undisturbed)


def test_signal_that_mpirun_passes_on_ends_all_ranks_with_75(undisturbed: Path):
    path = undisturbed.parent / "mpirun"
    arguments = ["tune", str(undisturbed.parent / "job.toml"), "-o", str(path)]

    ended = interrupted(mpirun(2, *arguments), "trial 2 ", signal.SIGUSR1)

    assert ended.code == 75, ended.text
    assert (path / "best.onnx").is_file()
    assert ended.left == ()
    assert run(disttune(*arguments)).code == 3
    assert table(path) == table(undisturbed)


def test_second_interrupt_ends_at_once_with_130_and_a_whole_journal(tmp_path: Path):
    command = disttune("tune", make_job(tmp_path, HANGING), "-o", tmp_path / "run")
    session = Launched(command)
    session.wait_for("trial 1 ")
    session.signal(signal.SIGINT)
    session.wait_for("asked to end")
    session.signal(signal.SIGINT)
    interrupted_s = time.monotonic()

    ended = session.wait(8.0)  # the grace time alone would be longer

    assert ended.code == 130, ended.text
    assert ended.stderr == "disttune: interrupted twice: ended at once; run the same command again to go on\n"
    assert time.monotonic() - interrupted_s < 8.0
    assert ended.left == ()
    assert len(records(tmp_path / "run", Record)) > 3


def test_interrupt_before_the_first_trial_ends_with_75(tmp_path: Path):
    slow_start = make_job(tmp_path, "time.sleep(600 if n < 0 else 0)")

    ended = interrupted(disttune("tune", slow_start, "-o", tmp_path / "run"), "float model", signal.SIGTERM)

    assert ended.code == 75
    assert "run the same command again" in ended.stderr
    assert ended.left == ()


def test_job_that_was_stopped_for_a_while_goes_on_as_if_nothing_had_been(undisturbed: Path):
    """Longer than a rank may be silent: nobody counts as lost, and no trial is out of time."""
    path = undisturbed.parent / "stopped"
    limits = ["runtime.heartbeat=0.2", "runtime.lost_after=2.5", "runtime.master_silent=2.5"]
    limits.append("tuning.trial_timeout=2.5")
    settings = [part for limit in limits for part in ("--set", limit)]
    session = Launched(mpirun(2, "tune", undisturbed.parent / "job.toml", "-o", path, *settings))
    session.wait_for("trial 1 ")
    processes = [*session.agents().values(), *session.trial_processes()]
    for process in processes:
        process.suspend()
    time.sleep(3.0)
    for process in processes:
        process.resume()

    ended = session.wait()

    assert ended.code == 3, ended.text
    assert "takes no further part" not in ended.text
    assert table(path) == table(undisturbed)


def test_job_ends_in_order_before_its_batch_job_does_and_goes_on_in_the_next(undisturbed: Path):
    path = undisturbed.parent / "batch"
    command = disttune("tune", undisturbed.parent / "job.toml", "-o", path)
    end_s = int(time.time() + RESERVE_S + 6.0)

    ended = run(command, {"SLURM_JOB_END_TIME": str(end_s)})

    assert ended.code in (75, 3), ended.text  # 3: this machine was quick
    assert time.time() < end_s
    if ended.code == 75:
        assert "the batch job ends soon" in ended.text
        assert "Traceback" not in ended.text
    assert run(command).code == 3
    assert table(path) == table(undisturbed)
