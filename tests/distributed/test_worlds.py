"""One world of N ranks, or N worlds of one: told apart before anything is written."""

from pathlib import Path

import pytest

from tests.distributed.jobs import make_job
from tests.distributed.launch import disttune, find_mpirun, run

WITHOUT_PMIX = 'for name in $(env | grep -o "^PMIX_[A-Z0-9_]*"); do unset $name; done; exec "$@"'


@pytest.mark.parametrize("size", ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"])
def test_rank_of_another_mpi_is_refused_with_the_mend(tmp_path: Path, size: str):
    job = make_job(tmp_path)

    ended = run(disttune("tune", job, "-o", tmp_path / "run"), {size: "4"})

    assert ended.code == 2
    assert ended.stderr.startswith("disttune: a launcher started 4 ranks, but each is a world of its own")
    assert "mpirun" in ended.stderr
    assert "MPI4PY_LIBMPI" in ended.stderr
    assert "Traceback" not in ended.text
    assert not (tmp_path / "run").exists()


def test_ranks_that_do_not_find_each_other_all_end(tmp_path: Path):
    job = make_job(tmp_path)
    alone = ["sh", "-c", WITHOUT_PMIX, "sh", *disttune("tune", job, "-o", tmp_path / "run")]

    ended = run([find_mpirun(), "-np", "2", *alone])

    assert ended.code == 2
    assert ended.stderr.count("a launcher started 2 ranks, but each is a world of its own") == 1
    assert "Traceback" not in ended.text
    assert not (tmp_path / "run").exists()
