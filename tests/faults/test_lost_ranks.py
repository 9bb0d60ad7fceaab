"""Ranks that die or stop under a real mpirun with ULFM: the others go on to the undisturbed table.

The job is small, so that a rank is hit while it works; heartbeats are fast, so that a stopped one is found
soon.
"""

import contextlib
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from tests.distributed.jobs import make_job, table
from tests.distributed.launch import Launched, disttune, find_mpirun, kill, mpirun, run

SLEEPING = "time.sleep(0.1 + 0.1 * (7 * n % 16) / 16)"
FAST = [f"runtime.{key}" for key in ("heartbeat=0.2", "lost_after=4", "master_silent=9")]
SETTINGS = [part for setting in FAST for part in ("--set", setting)]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("job")
    job = make_job(folder, SLEEPING, max_trials=16)
    assert run(disttune("tune", job, "-o", folder / "undisturbed")).code == 3
    return folder / "undisturbed"


def surviving(ranks: int, *arguments: str | Path) -> list[str]:
    """An mpirun that lives on when a rank dies; the test is skipped where this MPI has none."""
    program, *rest = mpirun(ranks, *arguments)
    if subprocess.run([find_mpirun(), "--with-ft", "ulfm", "--version"], capture_output=True).returncode:
        pytest.skip("this mpirun has no ULFM")
    return [program, "--with-ft", "ulfm", *rest]


def command(undisturbed: Path, path: Path) -> list[str]:
    return surviving(4, "tune", undisturbed.parent / "job.toml", "-o", path, *SETTINGS)


def test_job_goes_on_without_agents_that_were_killed(undisturbed: Path):
    path = undisturbed.parent / "killed"
    job = Launched(command(undisturbed, path))
    job.wait_for("trial 1 ")
    agents = job.agents()
    kill(agents[2])
    job.wait_for("trial 5 ")
    kill(agents[1])

    ended = job.wait()

    assert ended.code == 3, ended.text
    assert table(path) == table(undisturbed)
    for rank in (1, 2):
        line = f"rank {rank} takes no further part: its process is gone. Its work goes to others."
        assert ended.text.count(line) == 1
    assert "Traceback" not in ended.text
    assert ended.left == ()


@pytest.mark.parametrize(
    "phase",
    [
        pytest.param("starting ranks", marks=pytest.mark.on_demand),
        pytest.param("loading and checking", marks=pytest.mark.on_demand),
        "calibrating",
    ],
)
def test_job_begins_without_a_rank_that_dies_while_it_starts(undisturbed: Path, phase: str):
    path = undisturbed.parent / phase
    job = Launched(command(undisturbed, path))
    job.wait_for(phase)
    while 3 not in (agents := job.agents()):
        time.sleep(0.01)
    kill(agents[3])

    ended = job.wait()

    assert ended.code == 3, ended.text
    assert table(path) == table(undisturbed)
    assert ended.left == ()


def test_job_goes_on_without_an_agent_that_was_stopped_and_ends_it(undisturbed: Path, tmp_path: Path):
    job_file = make_job(tmp_path, "time.sleep(1.2)", max_trials=16)  # longer than a rank may be silent
    job = Launched(surviving(4, "tune", job_file, "-o", tmp_path / "run", *SETTINGS))
    job.wait_for("trial 1 ")
    job.agents()[2].send_signal(signal.SIGSTOP)

    ended = job.wait()

    assert ended.code == 3, ended.text
    assert table(tmp_path / "run") == table(undisturbed)
    line = "rank 2 takes no further part: nothing was heard of it for 4 s. Its work goes to others."
    assert ended.text.count(line) == 1
    assert not [line for line in ended.left if "python" in line]


def test_without_rank_0_the_others_end_with_75_and_the_same_command_goes_on(undisturbed: Path):
    path = undisturbed.parent / "rank 0"
    job = Launched(command(undisturbed, path))
    job.wait_for("trial 3 ")
    kill(job.agents()[0])

    ended = job.wait(20.0, settling_s=2.0)  # mpirun may be gone 0.05 s before the last agent is

    assert ended.code == 75, ended.text
    assert ended.left == ()
    again = run(command(undisturbed, path))
    assert again.code == 3, again.text
    assert table(path) == table(undisturbed)


def test_agents_that_are_stopped_when_all_is_told_hold_up_nobody(undisturbed: Path):
    job = Launched(command(undisturbed, undisturbed.parent / "stopped at the end"))
    job.wait_for("goal not met")
    for rank, agent in job.agents().items():
        if rank in (1, 2):
            with contextlib.suppress(psutil.NoSuchProcess):
                agent.suspend()

    ended = job.wait()

    assert ended.code == 3, ended.text
    assert not [line for line in ended.left if "python" in line]


def test_rank_that_dies_before_mpi_has_started_ends_the_job_with_a_word_and_75(undisturbed: Path):
    path = undisturbed.parent / "before MPI"
    job = Launched(command(undisturbed, path), {"DISTTUNE_START_TIMEOUT": "6"})
    while 3 not in (agents := job.agents()):
        time.sleep(0.01)
    kill(agents[3])

    ended = job.wait()

    assert ended.code == 75, ended.text
    assert ended.text.count("disttune: MPI has not started on all 4 ranks after 6 s") == 1
    assert "run the same command again" in ended.text
    assert run(command(undisturbed, path)).code == 3
