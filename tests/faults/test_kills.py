"""kill -9 at random moments, then the same command again: the trial table is that of an undisturbed run.

Three moments for each target; `DISTTUNE_KILLS=50 pytest -m on_demand tests/faults/test_kills.py` for more.
"""

import os
import random
import re
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.distributed.jobs import make_job, table
from tests.distributed.launch import Ended, Launched, disttune, kill, mpirun, run

SLEEPING = "time.sleep(0.05 + 0.15 * (7 * n % 16) / 16)"
TARGETS = ["a trial process", "a worker's agent", "rank 0", "everything"]
KILLS_IN_A_ROW = 3
N_TRIALS = 12


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run directory of the job without any kill; the job is one folder above."""
    folder = tmp_path_factory.mktemp("job")
    job = make_job(folder, SLEEPING, max_trials=N_TRIALS)
    assert run(disttune("tune", job, "-o", folder / "undisturbed")).code == 3
    return folder / "undisturbed"


@pytest.mark.parametrize("target", TARGETS)
def test_killed_job_goes_on_to_the_table_of_an_undisturbed_run(undisturbed: Path, target: str):
    strike_and_go_on(undisturbed, target, range(KILLS_IN_A_ROW))


@pytest.mark.on_demand
@pytest.mark.parametrize("target", TARGETS)
def test_many_kills_change_nothing(undisturbed: Path, target: str):
    n_kills = int(os.environ.get("DISTTUNE_KILLS", "50"))
    for first in range(0, n_kills, KILLS_IN_A_ROW):
        strike_and_go_on(undisturbed, target, range(first, min(n_kills, first + KILLS_IN_A_ROW)))


def strike_and_go_on(undisturbed: Path, target: str, seeds: range) -> None:
    """Kill a session for each seed and go on in its run directory; in a new one where the job has ended."""
    job = undisturbed.parent / "job.toml"
    story: list[Strike] = []
    for i, seed in enumerate(seeds):
        if not story or story[-1].ended.code == 3:
            path = undisturbed.parent / f"{target} {seed}"
        command = mpirun(2, "tune", job, "-o", path)
        from_row = N_TRIALS * i // len(seeds)
        story.append(strike(command, target, seed, from_row, from_row + N_TRIALS // len(seeds)))
        if story[-1].ended.code == 3:
            check(story[-1].ended, path, undisturbed, story)
    if story[-1].ended.code != 3:
        check(run(command), path, undisturbed, story)
    print("", *story, sep="\n")


def check(last: Ended, path: Path, undisturbed: Path, story: list["Strike"]) -> None:
    what = "\n".join([*map(str, story), last.text])
    assert last.code == 3, what
    assert table(path) == table(undisturbed), what
    assert (path / "best.onnx").read_bytes() == (undisturbed / "best.onnx").read_bytes(), what
    assert last.left == (), what
    assert names(path) == names(undisturbed), what


def names(path: Path) -> set[str]:
    """What is there. A taker of the lock that was killed leaves an entry that a later job removes."""
    return {p.name for p in path.iterdir() if not p.name.startswith("lock.new-")}


@dataclass(frozen=True)
class Strike:
    """What was killed when, and what came of it."""

    target: str
    seed: int
    n_hit: int
    n_rows: int
    ended: Ended
    after_s: float

    def __str__(self) -> str:
        return (
            f"{self.target}, seed {self.seed}: {self.n_hit} killed after {self.n_rows} rows; the command "
            f"ended with {self.ended.code}, {self.after_s:.1f} s later"
        )


def strike(command: list[str], target: str, seed: int, from_row: int, to_row: int) -> Strike:
    """Start the command and kill the target at a moment that the seed decides.

    In two cases of three that is when a row between these two has been committed, else while it starts.
    """
    randomness = random.Random(f"{target} {seed}")
    session = Launched(command)
    if randomness.random() < 2 / 3:
        session.wait_for(f"trial {randomness.randrange(from_row, to_row)} ")
        time.sleep(randomness.uniform(0.0, 0.2))
    else:
        time.sleep(randomness.uniform(0.1, 2.0))
    n_rows = len(re.findall(r"^[* ] trial \d", session.said(), re.MULTILINE))
    n_hit = hit(session, target, randomness)
    struck_s = time.monotonic()
    ended = session.wait()
    assert "Traceback" not in ended.text, f"seed {seed}: {ended.text}"
    return Strike(target, seed, n_hit, n_rows, ended, time.monotonic() - struck_s)


def hit(session: Launched, target: str, randomness: random.Random) -> int:
    """SIGKILL as soon as there is something to be hit; how many processes were."""
    while session.process.poll() is None:
        victims = find(session, target)
        if victims and target == "a trial process":
            victims = [randomness.choice(victims)]
        if victims:
            return sum(kill(process) for process in victims)
        time.sleep(0.02)
    return 0


def find(session: Launched, target: str) -> list[psutil.Process]:
    if target == "a trial process":
        return session.trial_processes()
    if target == "everything":
        return sorted(session.processes(), key=lambda p: p.pid)
    return [p for rank, p in session.agents().items() if rank == (0 if target == "rank 0" else 1)]
