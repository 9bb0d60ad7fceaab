"""Trial processes end with their agent, however that one ends."""

import time
from pathlib import Path

from tests.distributed.jobs import make_job
from tests.distributed.launch import Launched, disttune, kill, mpirun

WITHIN_S = 2.0
HANGING = "if n >= 0:\n    print('hangs', flush=True)\n    time.sleep(600)"


def test_no_trial_process_outlives_killed_agents(tmp_path: Path):
    job = Launched(mpirun(2, "tune", make_job(tmp_path, HANGING), "-o", tmp_path / "run"))
    wait_for_logs(tmp_path / "run", n=2)
    agents, trials = job.agents(), job.trial_processes()

    for agent in agents.values():
        kill(agent)

    gone = is_gone_within(WITHIN_S, job)
    job.wait()
    assert (len(agents), len(trials)) == (2, 2)
    assert gone


def test_no_trial_process_outlives_a_killed_process_without_mpirun(tmp_path: Path):
    job = Launched(disttune("tune", make_job(tmp_path, HANGING), "-o", tmp_path / "run"))
    wait_for_logs(tmp_path / "run", n=1)
    trials = job.trial_processes()

    kill(job.agents()[0])

    assert is_gone_within(WITHIN_S, job)
    assert len(trials) == 1
    assert job.wait().code == -9


def wait_for_logs(run_directory: Path, n: int) -> None:
    """Wait until so many ranks have an evaluation that hangs."""
    until_s = time.monotonic() + 30.0
    while sum("hangs" in p.read_text() for p in run_directory.glob("logs/rank-*.log")) < n:
        assert time.monotonic() < until_s
        time.sleep(0.05)


def is_gone_within(seconds: float, job: Launched) -> bool:
    """Whether the job's trial processes end in that time."""
    until_s = time.monotonic() + seconds
    while job.trial_processes():
        if time.monotonic() > until_s:
            return False
        time.sleep(0.05)
    return True
