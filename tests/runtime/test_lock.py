"""One job holds a run directory; a dead one does not keep it."""

import errno
import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from disttune.config.errors import RunDirectoryError
from disttune.runtime.lock import RunLock
from disttune.runtime.lock_holder import (
    SILENCE_S,
    Holder,
    batch_job,
    may_take_over,
    process_alive,
    this_process,
)

ROOT = Path(__file__).parents[2]
ME = this_process(environ={})
DEAD_HERE = replace(ME, started_ticks=ME.started_ticks + 1)  # our process id, once another process's
ELSEWHERE = replace(ME, host="node7", boot_id="b7")


def hold(directory: Path, holder: Holder, silent_s: float = 0.0) -> RunLock:
    """Take the lock as another process would, and fall silent for a while."""
    lock = RunLock.acquire(directory, holder)
    renewed_s = lock.path.stat().st_mtime - silent_s
    os.utime(lock.path, (renewed_s, renewed_s))
    return lock


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


# The decision

CASES = {
    "here, alive, silent for long": (ME, True, 1e6, False),
    "here, gone": (ME, False, 0.0, True),
    "here and our batch job, alive": (replace(ME, batch_job="slurm 1"), True, 1e6, False),
    "elsewhere, heard just now": (ELSEWHERE, False, 0.0, False),
    "elsewhere, silent for nearly long enough": (ELSEWHERE, False, SILENCE_S - 1, False),
    "elsewhere, silent for long enough": (ELSEWHERE, False, SILENCE_S, True),
    "elsewhere, our batch job": (replace(ELSEWHERE, batch_job="slurm 1"), False, 0.0, True),
    "elsewhere, another batch job": (replace(ELSEWHERE, batch_job="slurm 2"), False, 0.0, False),
    "same host name, another boot": (replace(ME, boot_id="b7"), False, 0.0, False),
    "same host, another container": (replace(ME, pid_namespace="pid:[7]"), False, 0.0, False),
}


@pytest.mark.parametrize("case", CASES)
def test_who_may_take_over(case: str):
    holder, alive, silent_s, expected = CASES[case]
    taker = replace(ME, batch_job="slurm 1")
    assert may_take_over(holder, taker, alive=alive, silent_s=silent_s) is expected


def test_jobs_outside_of_batch_systems_do_not_share_a_batch_job():
    assert not may_take_over(ELSEWHERE, ME, alive=False, silent_s=0.0)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, ""),
        ({"SLURM_JOB_ID": "12", "SLURM_CLUSTER_NAME": "alps"}, "slurm 12 alps"),
        ({"PBS_JOBID": "12[3].server"}, "pbs 12[3].server"),
        ({"LSB_JOBID": "12", "LSB_JOBINDEX": "3"}, "lsf 12 3"),
        ({"SLURM_JOB_ID": ""}, ""),
    ],
)
def test_batch_job_is_read_from_the_environment(environ: dict[str, str], expected: str):
    assert batch_job(environ) == expected


def test_process_is_alive_until_it_ends_and_as_a_zombie_no_more():
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        assert process_alive(process.pid, 0)
        assert not process_alive(process.pid, 1)  # another process had this id
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert not process_alive(process.pid, 0)  # not reaped yet
    assert not process_alive(process.pid, 0)


def test_this_process_is_alive():
    assert process_alive(ME.pid, ME.started_ticks)


# Taking, renewing, releasing


def test_lock_is_one_file_while_held_and_none_afterwards(tmp_path: Path):
    lock = RunLock.acquire(tmp_path)
    held = names(tmp_path)
    lock.release()
    assert (held, names(tmp_path)) == (["lock"], [])


def test_held_lock_is_refused_with_who_holds_it_and_the_mend(tmp_path: Path):
    RunLock.acquire(tmp_path, ME)
    with pytest.raises(RunDirectoryError) as caught:
        RunLock.acquire(tmp_path, ME)
    assert str(caught.value) == (
        f"{tmp_path}: the run directory is in use by process {ME.pid} on {ME.host}, last heard of 0 s ago. "
        "Wait for it or end it, or give another run directory."
    )
    assert names(tmp_path) == ["lock"]


def test_refusal_for_another_host_tells_when_the_directory_is_free(tmp_path: Path):
    hold(tmp_path, replace(ELSEWHERE, batch_job="slurm 5"), silent_s=50.0)
    with pytest.raises(
        RunDirectoryError, match=r"on node7 \(slurm 5\), last heard of 50 s ago.* free in 70 s"
    ):
        RunLock.acquire(tmp_path, ME)


@pytest.mark.parametrize(
    ("holder", "silent_s"),
    [(DEAD_HERE, 0.0), (ELSEWHERE, 121.0), (replace(ELSEWHERE, batch_job="slurm 1"), 0.0)],
    ids=["dead here", "silent elsewhere", "our batch job elsewhere"],
)
def test_lock_of_a_job_that_is_gone_is_taken_at_once(tmp_path: Path, holder: Holder, silent_s: float):
    hold(tmp_path, holder, silent_s)
    RunLock.acquire(tmp_path, replace(ME, batch_job="slurm 1")).release()
    assert names(tmp_path) == []


def test_renewal_keeps_the_lock_from_others(tmp_path: Path):
    hold(tmp_path, ELSEWHERE, silent_s=500.0).renew()
    with pytest.raises(RunDirectoryError, match="last heard of 0 s ago"):
        RunLock.acquire(tmp_path, ME)


def test_holder_that_was_passed_over_learns_it_and_removes_nothing(tmp_path: Path):
    silent = hold(tmp_path, ELSEWHERE, silent_s=500.0)
    taker = RunLock.acquire(tmp_path, ME)
    with pytest.raises(RunDirectoryError, match=f"process {ME.pid} on {ME.host} has taken over"):
        silent.renew()
    silent.release()
    assert names(tmp_path) == ["lock"]
    taker.renew()


def test_lock_file_removed_by_hand_is_made_again(tmp_path: Path):
    lock = RunLock.acquire(tmp_path, ME)
    lock.path.unlink()
    lock.renew()
    with pytest.raises(RunDirectoryError, match="in use"):
        RunLock.acquire(tmp_path, ME)


def test_removed_directory_is_told_at_renewal(tmp_path: Path):
    (tmp_path / "run").mkdir()
    lock = RunLock.acquire(tmp_path / "run", ME)
    lock.path.unlink()
    lock.path.parent.rmdir()
    with pytest.raises(RunDirectoryError, match="was removed"):
        lock.renew()
    lock.release()


def test_renewal_outlives_a_failing_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    lock = RunLock.acquire(tmp_path, ME)
    with monkeypatch.context() as patch:
        patch.setattr(os, "utime", refuse(errno.EIO))
        lock.renew()
    lock.release()
    assert names(tmp_path) == []


def refuse(code: int):
    def fail(*args: object, **kwargs: object) -> None:
        raise OSError(code, os.strerror(code))

    return fail


@pytest.mark.parametrize("content", [b"", b"12345\n", b"{}", b"[]", b"\xff", b'{"host": 1}'])
def test_lock_that_is_not_ours_is_never_taken(tmp_path: Path, content: bytes):
    (tmp_path / "lock").write_bytes(content)
    os.utime(tmp_path / "lock", (0, 0))
    with pytest.raises(RunDirectoryError, match=r"no lock that disttune wrote.* remove the file"):
        RunLock.acquire(tmp_path, ME)
    assert (tmp_path / "lock").read_bytes() == content


def test_directory_that_cannot_be_written_is_one_message(tmp_path: Path):
    with pytest.raises(RunDirectoryError, match="cannot be locked: No such file"):
        RunLock.acquire(tmp_path / "missing", ME)


def test_file_system_without_hard_links_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "link", refuse(errno.EPERM))
    hold(tmp_path, DEAD_HERE)
    lock = RunLock.acquire(tmp_path, ME)
    with pytest.raises(RunDirectoryError, match="in use"):
        RunLock.acquire(tmp_path, ME)
    lock.release()
    assert names(tmp_path) == []


def test_lost_answer_of_a_network_file_system_is_no_rival(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    original = os.link

    def link_and_lose_the_answer(source: Path, target: Path, **kwargs: bool) -> None:
        original(source, target, **kwargs)
        raise FileExistsError

    monkeypatch.setattr(os, "link", link_and_lose_the_answer)
    RunLock.acquire(tmp_path, DEAD_HERE)
    RunLock.acquire(tmp_path, ME)
    assert names(tmp_path) == ["lock"]


# Races


@pytest.mark.parametrize(
    "first", [None, DEAD_HERE, ELSEWHERE], ids=["no lock", "dead here", "silent elsewhere"]
)
def test_one_of_many_takers_gets_the_lock(tmp_path: Path, first: Holder | None):
    for _ in range(20):
        if first:
            hold(tmp_path, first, silent_s=500.0)
        winners = race(tmp_path, n_takers=6)
        assert len(winners) == 1
        winners[0].renew()
        winners[0].release()
        assert names(tmp_path) == []


def race(directory: Path, n_takers: int) -> list[RunLock]:
    """Locks of the threads that got one."""
    won: list[RunLock] = []
    barrier = threading.Barrier(n_takers)

    def take() -> None:
        barrier.wait()
        try:
            won.append(RunLock.acquire(directory, ME))
        except RunDirectoryError as error:
            if "in use" not in str(error):
                raise

    threads = [threading.Thread(target=take) for _ in range(n_takers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return won


def test_taker_that_looked_long_ago_does_not_replace_the_new_holder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A takes over between the moments when B judges the old holder and acts upon it (rule 4)."""
    hold(tmp_path, DEAD_HERE)
    original = os.link
    taken: list[RunLock] = []

    def link_late(source: Path, target: Path, **kwargs: bool) -> None:
        if "after" in str(target) and not taken:
            monkeypatch.setattr(os, "link", original)
            taken.append(RunLock.acquire(tmp_path, ME))
        original(source, target, **kwargs)

    monkeypatch.setattr(os, "link", link_late)
    with pytest.raises(RunDirectoryError, match="in use"):
        RunLock.acquire(tmp_path, ME)
    taken[0].renew()


TAKER = """
import sys
from pathlib import Path
from disttune.config.errors import RunDirectoryError
from disttune.runtime.lock import RunLock
print("ready", flush=True)
input()
try:
    RunLock.acquire(Path(sys.argv[1]))
except RunDirectoryError:
    print("refused", flush=True)
else:
    print("won", flush=True)
input()
"""


def test_one_of_several_processes_gets_the_lock_and_a_killed_one_frees_it(tmp_path: Path):
    hold(tmp_path, DEAD_HERE)
    takers = [start(TAKER, str(tmp_path)) for _ in range(4)]
    assert [answer(t) for t in takers] == ["ready"] * 4
    for taker in takers:
        tell(taker)
    answers = [answer(t) for t in takers]
    assert sorted(answers) == ["refused", "refused", "refused", "won"]
    winner = takers[answers.index("won")]
    with pytest.raises(RunDirectoryError, match=f"in use by process {winner.pid} "):
        RunLock.acquire(tmp_path)
    winner.kill()
    winner.wait()
    RunLock.acquire(tmp_path).release()
    for taker in takers:
        taker.communicate()


def start(script: str, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)


def answer(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def tell(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


KILLED = """
import os, sys
from pathlib import Path
from disttune.runtime.lock import RunLock
left = int(sys.argv[2])

def dying(call):
    def wrapped(*args, **kwargs):
        global left
        if left == 0:
            os._exit(9)
        left -= 1
        return call(*args, **kwargs)
    return wrapped

for name in ("link", "replace", "unlink", "fsync"):
    setattr(os, name, dying(getattr(os, name)))
RunLock.acquire(Path(sys.argv[1])).release()
"""


@pytest.mark.parametrize("n_deaths", [1, 3])
def test_killed_at_any_step_of_taking_and_releasing_it_is_succeeded_at_once(tmp_path: Path, n_deaths: int):
    code, step = 9, 0
    while code == 9:
        hold(tmp_path, DEAD_HERE)
        code = [run_until(step, tmp_path) for _ in range(n_deaths)][-1]
        RunLock.acquire(tmp_path).release()
        assert [name for name in names(tmp_path) if not name.startswith("lock.new-")] == []
        step += 1
    assert code == 0
    assert step > 8


def run_until(step: int, directory: Path) -> int:
    """Exit code of a process that takes the lock and releases it, or dies (9) at a step on the way."""
    process = start(KILLED, str(directory), str(step))
    process.communicate()
    return process.returncode
