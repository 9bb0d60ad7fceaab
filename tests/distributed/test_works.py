"""Works on real ranks: each done once whatever the number of ranks, and what happens when one goes wrong."""

import hashlib
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.distributed.jobs import table
from tests.distributed.launch import Launched, disttune, find_mpirun, kill, mpirun, run
from tests.distributed.layered_jobs import done, environment, make_layered_job

N_TRIALS = 12
# exhaustive: fc0 per tensor or per channel comes last, so that 12 trials see 4 grams and 8 solves of 4 ops
N_WORKS = 12


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a job that has been run without mpirun; its run directory is "run"."""
    folder = tmp_path_factory.mktemp("alone")
    job = make_layered_job(folder)
    ended = run(disttune("tune", job, "-o", folder / "run"), environment(folder))
    assert ended.code == 3, ended.text
    return folder


def test_each_work_is_done_once_on_one_rank(alone: Path):
    assert set(done(alone).values()) == {1}
    assert len(done(alone)) == N_WORKS
    assert {row["status"] for row in table(alone / "run")} == {"ok"}


@pytest.mark.parametrize("n_ranks", [pytest.param(1, marks=pytest.mark.on_demand), 2, 4])
def test_each_work_is_done_once_by_any_number_of_ranks_with_the_same_table(
    alone: Path, tmp_path: Path, n_ranks: int
):
    job = make_layered_job(tmp_path)
    slow = {"DISTTUNE_TEST_WORK_S": "0.05"}
    ended = run(mpirun(n_ranks, "tune", job, "-o", tmp_path / "run"), environment(tmp_path, **slow))

    assert ended.code == 3, ended.text
    assert table(tmp_path / "run") == table(alone / "run")
    assert (tmp_path / "run/best.onnx").read_bytes() == (alone / "run/best.onnx").read_bytes()
    assert done(tmp_path) == done(alone)
    assert ended.left == ()


@pytest.mark.parametrize(
    ("wrong", "n_begun", "reason"),
    [
        ("fc0=fail", 1, "fc0: the matrix is singular"),
        ("fc0=fault", 1, "a fault of disttune in gram of fc0, please report it"),
        ("fc0=kill", 3, "gram of fc0 ended 3 trial processes"),
    ],
)
def test_work_that_cannot_be_done_fails_its_candidates_and_the_search_goes_on(
    tmp_path: Path, wrong: str, n_begun: int, reason: str
):
    job = make_layered_job(tmp_path, max_trials=3)
    plan = environment(tmp_path, DISTTUNE_TEST_WORK_WRONG=wrong)

    ended = run(mpirun(2, "tune", job, "-o", tmp_path / "run"), plan)

    assert ended.code == 3, ended.text
    rows = table(tmp_path / "run")
    assert {row["status"] for row in rows} == {"failed"}
    assert all(reason in row["reason"] for row in rows)
    assert done(tmp_path)["gram of fc0"] == n_begun
    assert ("warning: a fault of disttune" in ended.stdout) == (wrong == "fc0=fault")
    assert ended.left == ()


@pytest.mark.parametrize("target", ["a trial process", "a worker's agent"])
def test_kill_during_a_work_costs_that_work_and_nothing_else(alone: Path, tmp_path: Path, target: str):
    job = make_layered_job(tmp_path)
    command = mpirun(2, "tune", job, "-o", tmp_path / "run")
    session = Launched(command, environment(tmp_path, DISTTUNE_TEST_WORK_S="0.4"))
    wait_for_a_work(session, tmp_path)
    victims = session.trial_processes() if target == "a trial process" else [session.agents()[1]]

    assert kill(victims[-1])
    ended = session.wait()
    if target == "a worker's agent" and ended.code != 3:  # without fault tolerance mpirun ends the job
        ended = run(command, environment(tmp_path))

    assert ended.code == 3, ended.text
    assert table(tmp_path / "run") == table(alone / "run")
    assert done(tmp_path).keys() == done(alone).keys()
    assert ended.left == ()


@pytest.mark.on_demand  # it waits out the grace time
def test_job_that_is_asked_to_end_while_works_run_ends_with_75_and_goes_on(alone: Path, tmp_path: Path):
    job = make_layered_job(tmp_path)
    command = mpirun(2, "tune", job, "-o", tmp_path / "run")
    session = Launched(command, environment(tmp_path, DISTTUNE_TEST_WORK_S="600"))
    wait_for_a_work(session, tmp_path)
    session.signal(signal.SIGUSR1)

    ended = session.wait(30.0)

    assert ended.code == 75, ended.text
    assert ended.left == ()
    assert run(command, environment(tmp_path)).code == 3
    assert table(tmp_path / "run") == table(alone / "run")


def test_resume_does_no_work_again_but_for_a_damaged_result(alone: Path, tmp_path: Path):
    path, job = tmp_path / "run", make_layered_job(tmp_path)
    first = mpirun(2, "tune", job, "-o", path, "--set", "tuning.max_trials=8")
    assert run(first, environment(tmp_path)).code == 3
    key = hashlib.blake2b(b"fc1", digest_size=16).hexdigest()
    (damaged,) = (path / "cache").glob(f"work-*-{key}.npz")
    damaged.write_bytes(damaged.read_bytes()[:-50])

    ended = run(mpirun(2, "tune", job, "-o", path), environment(tmp_path))

    assert ended.code == 3, ended.text
    assert table(path) == table(alone / "run")
    assert f"{damaged.name} is damaged" in ended.text
    assert done(tmp_path) == done(alone) + Counter(["gram of fc1"])


def wait_for_a_work(session: Launched, folder: Path) -> None:
    """Until one has begun."""
    until_s = time.monotonic() + 30.0
    while not (folder / "works.log").exists() and session.process.poll() is None:
        assert time.monotonic() < until_s
        time.sleep(0.02)


def test_ranks_of_two_nodes_share_works_too(alone: Path, tmp_path: Path):
    job = make_layered_job(tmp_path)
    tune = disttune("tune", job, "-o", tmp_path / "run")
    named = [["-np", "2", "-x", f"DISTTUNE_NODE={name}", *tune] for name in "ab"]

    ended = run(
        [find_mpirun(), *named[0], ":", *named[1]], environment(tmp_path, DISTTUNE_TEST_WORK_S="0.05")
    )

    assert ended.code == 3, ended.text
    assert table(tmp_path / "run") == table(alone / "run")
    assert done(tmp_path) == done(alone)


@pytest.mark.parametrize("option", ["runtime.isolation=none", "runtime.master_works=false"])
def test_works_are_done_within_ranks_and_beside_a_master_that_runs_no_trials(
    alone: Path, tmp_path: Path, option: str
):
    job = make_layered_job(tmp_path)
    command = mpirun(2, "tune", job, "-o", tmp_path / "run", "--set", option)

    ended = run(command, environment(tmp_path))

    assert ended.code == 3, ended.text
    assert table(tmp_path / "run") == table(alone / "run")
    assert done(tmp_path) == done(alone)
