"""The shipped script on a real Slurm: asked to end, at its time limit, and with a node lost, it goes on.

On demand, as root: `pytest -m on_demand tests/slurm`. Where Slurm is missing, DISTTUNE_TEST_INSTALL=1 lets
the test install it with apt-get.
"""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.distributed.jobs import make_job, table
from tests.distributed.launch import ROOT, disttune, run
from tests.slurm.cluster import INSTALL, Cluster, is_installed, wait_until

pytestmark = pytest.mark.on_demand
SCRIPT = ROOT / "launch/slurm/tune.sh"
GOAL_NOT_MET = "FAILED"  # Slurm's word for any exit code but 0; here it is 3
TIME_LIMIT = ("--time=2", "--signal=B:USR1@30")  # Slurm sends it 30 to 60 s before the limit


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    if os.geteuid() != 0:
        pytest.skip("only root can run slurmd")
    if not is_installed():
        if os.environ.get("DISTTUNE_TEST_INSTALL") != "1":
            pytest.skip("there is no Slurm; DISTTUNE_TEST_INSTALL=1 lets this test install it")
        subprocess.run(INSTALL, check=True)
    cluster = Cluster()
    yield cluster
    cluster.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A job, and what it gives undisturbed."""
    body = "print('on', os.environ.get('SLURMD_NODENAME'))\ntime.sleep(float(os.environ.get('TRIAL_S', '0')))"
    make_job(tmp_path, body, max_trials=16)
    run(disttune("tune", tmp_path / "job.toml", "-o", tmp_path / "undisturbed"))
    return tmp_path


def submit(cluster: Cluster, folder: Path, trial_s: float, *options: str) -> str:
    words = (f"--export=ALL,TRIAL_S={trial_s}", *options, SCRIPT, "tune", "job.toml", "-o", "run")
    return cluster.submit(folder, *words)


def wait_for(text: str, log: Path) -> None:
    wait_until(lambda: log.exists() and text in log.read_text(), 120.0)


def check_end(cluster: Cluster, folder: Path, job: str) -> str:
    """See the job end as the undisturbed one did; returns what it printed."""
    state = cluster.end(job)
    log = (folder / "log").read_text()
    shown = cluster.run("scontrol", "show", "job", "--oneliner", job)
    assert (state, "ExitCode=3:0" in shown) == (GOAL_NOT_MET, True), log
    assert "Restarts=0" not in shown
    assert table(folder / "run") == table(folder / "undisturbed")
    return log


def test_job_that_is_asked_to_end_goes_back_into_the_queue_and_ends(cluster: Cluster, folder: Path):
    job = submit(cluster, folder, 1.0)
    wait_for("trial 3 ", folder / "log")

    cluster.run("scancel", "--batch", "--signal=USR1", job)

    log = check_end(cluster, folder, job)
    assert f"work is left; job {job} goes back into the queue (restart 1)" in log
    assert "4 rank(s)" in log
    printed = "".join(path.read_text() for path in (folder / "run/logs").iterdir())
    assert "on n1" in printed
    assert "on n2" in printed


def test_job_at_its_time_limit_goes_back_into_the_queue_and_ends(cluster: Cluster, folder: Path):
    job = submit(cluster, folder, 20.0, *TIME_LIMIT)

    log = check_end(cluster, folder, job)

    assert "goes back into the queue (restart 1)" in log
    assert "DUE TO TIME LIMIT" not in log


def test_job_that_loses_a_node_is_run_again_and_ends(cluster: Cluster, folder: Path):
    job = submit(cluster, folder, 1.0)
    wait_for("trial 3 ", folder / "log")

    cluster.run("scontrol", "update", "nodename=n2", "state=down", "reason=test")  # until it registers anew

    check_end(cluster, folder, job)


def test_array_runs_each_line(cluster: Cluster, folder: Path):
    lines = [f"tune job.toml -o run{n}\n" for n in (1, 2)]
    (folder / "jobs.txt").write_text("".join(lines))

    job = cluster.submit(folder, "--array=1-2", SCRIPT, "--lines", "jobs.txt")

    assert [cluster.end(f"{job}_{n}") for n in (1, 2)] == [GOAL_NOT_MET] * 2, (folder / "log").read_text()
    assert table(folder / "run1") == table(folder / "run2") == table(folder / "undisturbed")
