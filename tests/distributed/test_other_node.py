"""Ranks that share neither memory nor disk with rank 0 get the replica and the user's files."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from disttune.runtime.records import ResultRecord
from tests.distributed.jobs import make_job, records, table
from tests.distributed.launch import disttune, find_mpirun, run

BODY = 'print("evaluated by", __file__)\ntime.sleep(0.3)'
HIDE = 'mount -t tmpfs none "$0" && echo ready && exec sleep 300'


@contextmanager
def other_node(hidden: Path) -> Iterator[list[str]]:
    """Process ids of its own and a folder that cannot be seen; gives what to put before a command."""
    options = ["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    if os.geteuid() != 0 or not shutil.which("unshare") or not shutil.which("nsenter"):
        pytest.skip("needs root, unshare and nsenter")
    command = ["unshare", *options, "sh", "-c", HIDE, str(hidden)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as node:
        assert node.stdout is not None
        assert node.stderr is not None
        try:
            if node.stdout.readline() != "ready\n":
                pytest.skip(f"namespaces cannot be made here: {node.stderr.read().strip()}")
            (inside,) = psutil.Process(node.pid).children()
            yield ["nsenter", "--target", str(inside.pid), "--mount", "--pid", "--"]
        finally:
            node.kill()


@pytest.mark.parametrize("baseline", ["", "baseline = 1.0"], ids=["baseline measured", "baseline given"])
def test_ranks_of_another_node_work_with_copies_that_are_gone_afterwards(tmp_path: Path, baseline: str):
    job, scratch = make_job(tmp_path / "job", BODY), tmp_path / "scratch"
    scratch.mkdir()
    job.write_text(job.read_text().replace("[accuracy]", f"{baseline}\n[accuracy]"))
    tune = disttune("tune", job, "-o", tmp_path / "run")

    with other_node(hidden=job.parent) as inside:
        one_here, two_there = ["-np", "1", *tune], ["-np", "2", *inside, *tune]
        command = [find_mpirun(), "--mca", "btl", "tcp,self", *one_here, ":", *two_there]
        ended = run(command, {"SLURM_TMPDIR": str(scratch)})

    assert ended.code == 3, ended.text
    assert "2 node(s)" in ended.stdout
    for rank in (1, 2):
        log = (tmp_path / "run" / "logs" / f"rank-{rank}.log").read_text()
        assert log.startswith(f"evaluated by {scratch}/disttune-")
    assert {r.rank for r in records(tmp_path / "run", ResultRecord)} == {0, 1, 2}
    assert {row["status"] for row in table(tmp_path / "run")} == {"ok"}
    assert list(scratch.iterdir()) == []


def test_rank_on_a_node_of_another_name_gets_the_files_and_shares_the_replica(tmp_path: Path):
    job, scratch = make_job(tmp_path / "job", BODY, max_trials=8), tmp_path / "scratch"
    scratch.mkdir()
    tune = disttune("tune", job, "-o", tmp_path / "run")
    named = [["-np", "1", "-x", f"DISTTUNE_NODE={name}", *tune] for name in "ab"]

    ended = run([find_mpirun(), *named[0], ":", *named[1]], {"SLURM_TMPDIR": str(scratch)})

    logs = [(tmp_path / "run" / "logs" / f"rank-{rank}.log").read_text() for rank in (0, 1)]
    assert ended.code == 3, ended.text
    assert f"evaluated by {job.parent}/eval.py" in logs[0]
    assert f"evaluated by {scratch}/disttune-" in logs[1]
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize(("master_works", "code"), [("true", 3), ("false", 2)])
def test_rank_that_cannot_load_the_users_code_is_named_and_others_do_its_work(
    tmp_path: Path, master_works: str, code: int
):
    job = make_job(tmp_path / "job", "time.sleep(0.2)")
    evaluation = job.with_name("eval.py")
    evaluation.write_text(
        f"import os\nif os.environ['DISTTUNE_NODE'] == 'b': import snpe\n{evaluation.read_text()}"
    )
    tune = disttune("tune", job, "-o", tmp_path / "run", "--set", f"runtime.master_works={master_works}")
    named = [["-np", "1", "-x", f"DISTTUNE_NODE={name}", *tune] for name in "ab"]

    ended = run([find_mpirun(), *named[0], ":", *named[1]])

    assert ended.code == code, ended.text
    assert "No module named 'snpe'" in ended.text
    if code == 3:
        assert "warning: rank 1 takes no further part: " in ended.stdout
        assert {row["status"] for row in table(tmp_path / "run")} == {"ok"}
    else:
        assert "disttune: no rank is left that can run trials. Rank 1: " in ended.stderr
