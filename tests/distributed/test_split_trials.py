"""Real jobs whose trials are shared out over ranks: the same table and the same best model, byte for byte."""

import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

from disttune.runtime.records import BaselineRecord, ResultRecord
from tests.distributed.jobs import make_job, records, table
from tests.distributed.launch import Launched, disttune, kill, mpirun, run
from tests.faults.test_lost_ranks import SETTINGS, surviving

SAMPLES = """
    import time
    from pathlib import Path

    import numpy as np

    from disttune import SampleEvaluator

    data = np.load(Path(__file__).parent / "data.npz")
    blocks = [({"x": data["x"][i : i + 1]}, data["y"][i : i + 1]) for i in range(64)]


    def score(outputs, targets):
        time.sleep(SECONDS)
        return 1.0 - np.abs(outputs[0] - targets).mean(axis=1)


    evaluate = SampleEvaluator(blocks, score)
"""


def split_job(folder: Path, block_s: float = 0.02, **options: object) -> Path:
    """Two trials of 64 blocks."""
    job = make_job(folder, max_trials=2, **options)
    code = textwrap.dedent(SAMPLES).replace("SECONDS", repr(block_s))
    (folder / "eval.py").write_text(code)
    return job


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory of the job on one rank."""
    folder = tmp_path_factory.mktemp("job")
    ended = run(disttune("tune", split_job(folder), "-o", folder / "whole"))
    assert ended.code == 3, ended.text
    assert [r.n_ranks for r in records(folder / "whole", ResultRecord)] == [1, 1]
    return folder / "whole"


def test_four_ranks_share_two_trials_and_give_the_very_result_of_one(whole: Path):
    path = whole.parent / "split"

    ended = run(mpirun(4, "tune", whole.parent / "job.toml", "-o", path))

    assert ended.code == 3, ended.text
    assert max(r.n_ranks for r in records(path, ResultRecord)) > 1
    assert [r.n_blocks for r in records(path, BaselineRecord)] == [64]
    assert table(path) == table(whole)
    assert (path / "best.onnx").read_bytes() == (whole / "best.onnx").read_bytes()
    assert ended.left == ()


def test_a_rank_killed_in_the_middle_of_a_part_loses_nothing(whole: Path):
    path = whole.parent / "killed"
    slow = split_job(whole.parent / "slow", block_s=0.08)
    job = Launched(surviving(4, "tune", slow, "-o", path, *SETTINGS))
    job.wait_for("measuring the float model")
    while len(job.trial_processes()) < 4:
        time.sleep(0.01)
    job.wait_for("goal")  # the search has begun
    time.sleep(1.5)
    kill(job.agents()[2])

    ended = job.wait()

    assert ended.code == 3, ended.text
    assert "rank 2 takes no further part" in ended.text
    assert max(r.n_ranks for r in records(path, ResultRecord)) > 1
    assert table(path) == table(whole)
    assert (path / "best.onnx").read_bytes() == (whole / "best.onnx").read_bytes()
    assert ended.left == ()


def test_trials_that_end_early_are_the_same_ones_on_any_number_of_ranks(tmp_path: Path):
    job = make_job(tmp_path, strategy="random", early_stop="bound", tolerable_loss=1e-9)
    samples = np.random.default_rng(5).standard_normal((640, 8)).astype(np.float32)
    np.savez(tmp_path / "samples.npz", x=samples)
    function, metric = 'function = "eval.py:evaluate"', 'metric = "mse"\ndata = "samples.npz"'
    job.write_text(job.read_text().replace(function, metric))

    alone = run(disttune("tune", job, "-o", tmp_path / "alone"))
    ended = run(mpirun(3, "tune", job, "-o", tmp_path / "run"))

    assert alone.code == ended.code == 3, ended.text
    rows = table(tmp_path / "run")
    assert {row["status"] for row in rows} == {"ok", "pruned"}
    assert rows == table(tmp_path / "alone")
    assert any("stopped early: bound" in row["reason"] for row in rows)
