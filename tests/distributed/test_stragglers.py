"""A real job with one trial process that has become very slow: nobody waits for it."""

from pathlib import Path

from tests.distributed.jobs import make_job, table
from tests.distributed.launch import mpirun, run

SLOW_S = 40.0
ONE_IS_SLOW = f"""
if n >= 0:
    try:
        with open(FOLDER / "slow", "x") as file:
            file.write(str(os.getpid()))
    except FileExistsError:
        pass
    time.sleep({SLOW_S} if (FOLDER / "slow").read_text() == str(os.getpid()) else 0.2)
"""


def test_the_trial_of_a_slow_process_is_run_on_another_rank_and_counts_from_there(tmp_path: Path):
    job = make_job(tmp_path, ONE_IS_SLOW, max_trials=8)

    ended = run(mpirun(3, "tune", job, "-o", tmp_path / "run"))

    assert ended.code == 3, ended.text
    rows = table(tmp_path / "run", without=())
    assert [row["trial"] for row in rows] == [str(n) for n in range(8)]
    assert max(float(row["seconds"]) for row in rows) < SLOW_S
    assert ended.left == ()
