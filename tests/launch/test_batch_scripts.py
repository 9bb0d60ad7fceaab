"""The scripts for batch systems, run with the variables that the real ones set, on two real ranks."""

import signal
import time
from datetime import datetime
from pathlib import Path

import pytest

from tests.distributed.jobs import make_job, table
from tests.distributed.launch import disttune, run
from tests.launch.batch_systems import ROOT, SYSTEMS, Job

NO_ULFM = "#!/usr/bin/env bash\n[[ $* != *' true' ]] || exit 1\n"  # an mpirun's answer to --with-ft
SLEEPING = "time.sleep(0.15)"
each_system = pytest.mark.parametrize("name", SYSTEMS)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("job")
    run(disttune("tune", make_job(folder, SLEEPING), "-o", folder / "undisturbed"))
    return folder / "undisturbed"


@pytest.fixture(autouse=True)
def _as_in_a_shell_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """What CI tells its tests is nothing that a resubmitted job should be handed."""
    monkeypatch.delenv("DISTTUNE_REQUIRE_MPI", raising=False)


@each_system
def test_warned_job_ends_with_75_is_put_back_and_goes_on(name: str, undisturbed: Path, tmp_path: Path):
    job = Job(SYSTEMS[name], tmp_path)
    arguments = ("tune", undisturbed.parent / "job.toml", "-o", tmp_path / "run")
    session = job.start(*arguments)
    session.wait_for("trial 2 ")
    session.signal(signal.SIGUSR1)

    ended = session.wait()

    assert ended.code == 75, ended.text
    assert job.noted() == ([SYSTEMS[name].put_back] if SYSTEMS[name].put_back else [])
    assert ended.left == ()
    assert job.start(*arguments, SLURM_RESTART_COUNT="1").wait().code == 3
    assert table(tmp_path / "run") == table(undisturbed)


def test_srun_form_runs_the_same(undisturbed: Path, tmp_path: Path):
    job = Job(SYSTEMS["slurm"], tmp_path)
    arguments = ("tune", undisturbed.parent / "job.toml", "-o", tmp_path / "run")

    ended = job.start(*arguments, DISTTUNE_LAUNCHER="srun").wait()

    assert ended.code == 3, ended.text
    assert job.noted()[0].startswith("srun --mpi=pmix --cpu-bind=none")
    assert table(tmp_path / "run") == table(undisturbed)


@each_system
def test_ranks_end_time_and_hosts_come_from_the_system(name: str, tmp_path: Path):
    job = Job(SYSTEMS[name], tmp_path, shows=True)

    words = job.start("tune", "job.toml", "-o", "run").wait().stdout.split()

    assert words[:3] == ["mpirun", "--with-ft", "ulfm"]
    assert words[-8:-2] == ["-m", "disttune", "tune", "job.toml", "-o", "run"]
    end_s, now_s = int(words[-1]), datetime.now().timestamp()
    if name == "slurm":
        assert words[3:9] == ["-np", "2", "--map-by", "slot", "--bind-to", "none"]
        assert end_s == datetime(2035, 1, 1).timestamp()
    else:
        assert words[3:7] == ["--hostfile", str(tmp_path / "nodes"), "-x", "DISTTUNE_END_TIME"]
        assert end_s - now_s == pytest.approx(10.5 * 3600, abs=60)


def test_job_of_an_array_takes_its_line(tmp_path: Path):
    job = Job(SYSTEMS["slurm"], tmp_path, shows=True)
    (tmp_path / "jobs.txt").write_text("tune a.toml -o a\ntune b.toml -o b\n")

    second = job.start("--lines", "jobs.txt", SLURM_ARRAY_TASK_ID="2").wait()
    third = job.start("--lines", "jobs.txt", SLURM_ARRAY_TASK_ID="3").wait()

    assert "-m disttune tune b.toml -o b until" in second.stdout
    assert (third.code, third.stderr) == (2, "launch/slurm/tune.sh: jobs.txt has no line 3\n")


@pytest.mark.parametrize(
    ("name", "restarts"), [("slurm", "SLURM_RESTART_COUNT"), ("pbs", "DISTTUNE_RESTARTS")]
)
def test_job_is_not_put_back_for_ever(name: str, restarts: str, tmp_path: Path):
    job = Job(SYSTEMS[name], tmp_path, shows=True)
    (tmp_path / "venv/bin/mpirun").write_text(NO_ULFM + "exit 75\n")

    codes = [job.start("tune", **{restarts: n}).wait().code for n in ("99", "100")]

    assert codes == [75, 75]
    assert job.noted() == [SYSTEMS[name].put_back]


def test_time_limit_that_only_the_script_knows_ends_the_job_before_it(tmp_path: Path):
    job = Job(SYSTEMS["pbs"], tmp_path, shows=True)
    waits = "trap 'exit 75' USR1\nwhile :; do sleep 0.1; done\n"
    (tmp_path / "venv/bin/mpirun").write_text(NO_ULFM + waits)

    ended = job.start("tune", PBS_WALLTIME="00:02:03").wait(20.0)

    assert ended.code == 75, ended.text
    assert ended.left == ()


def test_warning_before_there_are_ranks_means_that_all_work_is_left(tmp_path: Path):
    job = Job(SYSTEMS["slurm"], tmp_path, shows=True)
    (tmp_path / "venv/bin/mpirun").write_text('kill -USR1 "$PPID"; exit 1\n')

    ended = job.start("tune").wait()

    assert (ended.code, job.noted()) == (75, ["scontrol requeue 77"]), ended.text


def test_mpirun_that_ends_with_0_before_it_has_started_ranks_has_done_nothing(tmp_path: Path):
    job = Job(SYSTEMS["slurm"], tmp_path, shows=True)
    told = "trap 'exit 0' USR1\ntouch started\nwhile :; do sleep 0.1; done\n"
    (tmp_path / "venv/bin/mpirun").write_text(NO_ULFM + told)
    session = job.start("tune")
    wait_for(tmp_path / "started")
    session.signal(signal.SIGUSR1)

    ended = session.wait()

    assert (ended.code, job.noted()) == (75, ["scontrol requeue 77"]), ended.text


@each_system
def test_missing_checkout_is_named(name: str, tmp_path: Path):
    ended = Job(SYSTEMS[name], tmp_path).start("tune", DISTTUNE_HOME=str(tmp_path)).wait()

    assert ended.code == 2
    assert ended.stderr.endswith(f"{tmp_path} is no checkout of disttune; set DISTTUNE_HOME\n")


def test_lsf_and_slurm_are_told_what_an_interrupted_job_needs():
    lsf = (ROOT / "launch/lsf/tune.sh").read_text()
    slurm = (ROOT / "launch/slurm/tune.sh").read_text()

    assert '#BSUB -Q "75"\n' in lsf
    assert "#BSUB -wa USR1\n#BSUB -wt 2\n" in lsf
    assert "#SBATCH --signal=B:USR1@120\n#SBATCH --requeue\n#SBATCH --open-mode=append\n" in slurm


def wait_for(path: Path) -> None:
    until_s = time.monotonic() + 30.0
    while not path.exists():
        assert time.monotonic() < until_s
        time.sleep(0.05)
