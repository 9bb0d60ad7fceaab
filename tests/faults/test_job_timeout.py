"""The job's own time limit: what runs is forced to end, and a resume with more time runs it again."""

from pathlib import Path

import pytest

from tests.distributed.jobs import make_job, table
from tests.distributed.launch import disttune, mpirun, run

HANGS_WHEN_SLOW = "time.sleep(600 if n == 2 and 'SLOW' in os.environ else 0.01)"


@pytest.mark.parametrize(
    ("ranks", "tolerable_loss", "code"), [(1, 0.5, 0), (2, 0.0, 3)], ids=["goal met", "missed, two ranks"]
)
def test_timeout_ends_the_running_trial_and_more_time_runs_it_again(
    tmp_path: Path, ranks: int, tolerable_loss: float, code: int
):
    job = make_job(tmp_path, HANGS_WHEN_SLOW, tolerable_loss, max_trials=6)

    def tune(
        name: str, timeout_s: float, ranks: int = 1, **environment: str
    ) -> tuple[int, list[dict[str, str]]]:
        arguments = ["tune", str(job), "-o", str(tmp_path / name), "--set", f"tuning.timeout={timeout_s}"]
        ended = run(disttune(*arguments) if ranks == 1 else mpirun(ranks, *arguments), environment)
        assert "Traceback" not in ended.text
        assert ended.left == ()
        return ended.code, table(tmp_path / name)

    cut = tune("run", 10.0, ranks, SLOW="1")  # start-up counts
    same_again = tune("run", 10.0)
    resumed = tune("run", 100.0)

    (hanging,) = [row for row in cut[1] if row["status"] != "ok"]
    assert (hanging["trial"], hanging["status"], hanging["reason"]) == ("2", "timeout", "job timeout")
    assert same_again == cut, "the same command answers with the same result, on any number of ranks"
    assert cut[0] == code
    assert resumed == tune("undisturbed", 100.0)
