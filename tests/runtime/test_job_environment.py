"""What a job's environment decides: the scratch folder, memory files, the accelerator of a rank."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from disttune.quantize.devices import DEVICE_VARIABLE
from disttune.runtime.hosts import memory_files_warning, this_host
from disttune.runtime.local_rank import local_rank
from disttune.runtime.replica import Replica, create_memory_file, open_source, write_replica
from disttune.runtime.supervisor import trial_environment
from tests.distributed.jobs import make_job, table
from tests.distributed.launch import disttune, find_mpirun, mpirun, run


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine that refuses memory files; its scratch folder."""

    def refuse(name: str, flags: int = 0) -> int:
        raise PermissionError(errno.EPERM, "not permitted")

    monkeypatch.setattr(os, "memfd_create", refuse)
    monkeypatch.setenv("SLURM_TMPDIR", str(tmp_path))
    return tmp_path


def test_refused_memory_files_are_deleted_files_in_scratch(refused: Path):
    descriptor = create_memory_file()
    nonce = write_replica(descriptor, {"x": np.arange(3)})

    assert Path(f"/proc/self/fd/{descriptor}").readlink().parent == refused
    assert list(refused.iterdir()) == []
    opened = open_source(os.getpid(), descriptor, nonce)
    assert opened is not None
    assert Replica(opened).array("x").tolist() == [0, 1, 2]


def test_refused_memory_files_are_told_once(refused: Path):
    hosts = {0: this_host(), 1: this_host()}

    warning = memory_files_warning(hosts)

    assert warning is not None
    assert f"refuses memory files: what its ranks share is in a file in {refused}" in warning


def test_other_faults_of_memory_files_are_faults(monkeypatch: pytest.MonkeyPatch):
    def fail(name: str, flags: int = 0) -> int:
        raise OSError(errno.EMFILE, "too many open files")

    monkeypatch.setattr(os, "memfd_create", fail)

    with pytest.raises(OSError, match="too many open files"):
        create_memory_file()


def test_job_without_memory_files_gives_the_same_with_one_warning(tmp_path: Path):
    find_mpirun()
    job = make_job(tmp_path, max_trials=4)
    (tmp_path / "sitecustomize.py").write_text("import os\ndel os.memfd_create\n")
    without = {"PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[2]}"}
    undisturbed = run(disttune("tune", job, "-o", tmp_path / "undisturbed"))

    ended = run(mpirun(2, "tune", job, "-o", tmp_path / "run"), without)

    assert (undisturbed.code, ended.code) == (3, 3), ended.text
    assert ended.text.count("refuses memory files") == 1
    assert ended.left == ()
    assert table(tmp_path / "run") == table(tmp_path / "undisturbed")


@pytest.mark.parametrize(
    ("variables", "expected"),
    [({"OMPI_COMM_WORLD_LOCAL_RANK": "3"}, 3), ({"SLURM_LOCALID": "1"}, 1), ({}, 0)],
)
def test_local_rank_is_what_the_launcher_says(variables: dict[str, str], expected: int):
    assert local_rank(variables) == expected


def test_trial_process_is_told_its_device_unless_the_user_names_one(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OMPI_COMM_WORLD_LOCAL_RANK", "3")
    monkeypatch.delenv(DEVICE_VARIABLE, raising=False)
    assert trial_environment()[DEVICE_VARIABLE] == "3"

    monkeypatch.setenv(DEVICE_VARIABLE, "5")
    assert trial_environment()[DEVICE_VARIABLE] == "5"
