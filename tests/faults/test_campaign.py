"""The fault campaign: random faults in real mpirun jobs of 4 ranks; the table is that of an undisturbed run.

A job gets a few faults and is started again for as long as it ends with work left. A short form runs always;
`DISTTUNE_FAULTS=200 pytest -s -m on_demand tests/faults/test_campaign.py` prints the time lost per fault.
"""

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean

import psutil
import pytest

from tests.distributed.jobs import make_job, table
from tests.distributed.launch import Launched, run
from tests.faults.test_full_disk import fill_disk, make_room
from tests.faults.test_lost_ranks import surviving

N_RANKS = 4
N_EARLY = 13  # of 16 trials: later there is little left to strike
FAULTS_PER_JOB = 4
MOST_SESSIONS = 12
SESSION_S = 120.0
ORDERS = "DISTTUNE_TEST_ORDERS"  # folder with what an evaluation is to do once
EVALUATION = """\
orders = Path(os.environ["DISTTUNE_TEST_ORDERS"])
now = orders / f"by-{os.getpid()}"
if n >= 0:
    now.write_text(str(n))
time.sleep(0.2 + 0.2 * (7 * n % 16) / 16)
now.unlink(missing_ok=True)
if n == 5:
    raise ValueError("always")
what = ""
if n >= 0 and not (orders / f"struck-{n}").exists():  # a candidate that is hit twice has crashed for good
    try:
        what = (orders / "order").rename(orders / f"struck-{n}").read_text()
    except FileNotFoundError:
        pass
if what == "exit":
    os._exit(7)
if what == "segfault":
    import ctypes
    ctypes.string_at(0)
if what == "memory":
    eaten = [np.ones(2**23) for _ in range(16)]
    time.sleep(600)
if what == "hang":
    time.sleep(600)
"""
START = {"DISTTUNE_START_TIMEOUT": "20"}  # MPI waits for ever for a rank that dies while it starts
SETTINGS = {
    "runtime.heartbeat": "0.2", "runtime.lost_after": "4", "runtime.master_silent": "10",
    "runtime.preparation_timeout": "15",
    "tuning.trial_timeout": "8", "tuning.memory_limit": '"800 MiB"',
}  # fmt: skip


@dataclass
class Scene:
    """A job that is being disturbed."""

    path: Path
    orders: Path
    session: Launched
    randomness: random.Random

    def agent(self) -> psutil.Process | None:
        """A living agent other than rank 0's."""
        agents = [p for r, p in self.session.agents().items() if r and p.status() != psutil.STATUS_STOPPED]
        return self.randomness.choice(agents) if agents else None

    def trial_process(self) -> psutil.Process | None:
        """One whose candidate was not struck before: the second time it would have crashed for good."""
        processes = self.session.trial_processes()
        self.randomness.shuffle(processes)
        for process in processes:
            with contextlib.suppress(FileNotFoundError):  # it evaluates nothing now
                struck = self.orders / f"struck-{(self.orders / f'by-{process.pid}').read_text()}"
                if not struck.exists():
                    struck.touch()
                    return process
        if " trial " in self.session.said():
            return None
        away = {
            agent.pid for rank, agent in self.session.agents().items() if rank
        }  # rank 0's has the baseline
        return next((p for p in processes if p.ppid() in away), None)

    def rank_0(self) -> psutil.Process | None:
        return self.session.agents().get(0)


def signalled(find: Callable[[Scene], psutil.Process | None], number: int) -> Callable[[Scene], bool]:
    def strike(scene: Scene) -> bool:
        process = find(scene)
        if process is None:
            return False
        try:
            process.send_signal(number)
        except psutil.NoSuchProcess:
            return False
        return True

    return strike


def ordered(what: str) -> Callable[[Scene], bool]:
    """The next evaluation does this, once."""

    def strike(scene: Scene) -> bool:
        order = scene.orders / "order"
        order.write_text(what)
        while order.exists() and scene.session.process.poll() is None:
            time.sleep(0.05)
        is_left = order.exists()
        order.unlink(missing_ok=True)
        return not is_left

    return strike


def delayed(scene: Scene) -> bool:
    """Messages of a rank come late, but not so late that it counts as lost."""
    process = scene.agent()
    if process is None:
        return False
    with contextlib.suppress(psutil.NoSuchProcess):  # gone, or ended because the job was over meanwhile
        process.suspend()
        time.sleep(scene.randomness.uniform(0.5, 2.0))
        process.resume()
    return True


def full_disk(scene: Scene) -> bool:
    process = scene.rank_0()
    if process is None or not (scene.path / "journal.jsonl").exists():
        return False
    fill_disk(process, (scene.path / "journal.jsonl").stat().st_size)
    time.sleep(scene.randomness.uniform(0.5, 2.0))
    if process.is_running():
        make_room(process)
    return True


def torn_journal(scene: Scene) -> bool:
    """Everything dies while the last line of the journal is being written."""
    scene.session.kill_all()
    scene.session.process.wait()
    journal = scene.path / "journal.jsonl"
    if not journal.exists():
        return True
    data = journal.read_bytes()
    last = data.rstrip(b"\n").rfind(b"\n") + 1
    if last:
        os.truncate(journal, scene.randomness.randrange(last, len(data) + 1))
    return True


FAULTS: dict[str, Callable[[Scene], bool]] = {
    "agent killed": signalled(Scene.agent, signal.SIGKILL),
    "agent stopped": signalled(Scene.agent, signal.SIGSTOP),
    "rank 0 killed": signalled(Scene.rank_0, signal.SIGKILL),
    "trial process killed": signalled(Scene.trial_process, signal.SIGKILL),
    "trial process stopped": signalled(Scene.trial_process, signal.SIGSTOP),
    "evaluation exits": ordered("exit"),
    "evaluation segfaults": ordered("segfault"),
    "evaluation eats memory": ordered("memory"),
    "evaluation hangs": ordered("hang"),
    "messages delayed": delayed,
    "disk full": full_disk,
    "journal torn": torn_journal,
}


@dataclass
class Disturbed:
    """What was done to a job, and what came of it."""

    story: list[str] = field(default_factory=list)
    n_struck: int = 0
    seconds: float = 0.0


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """Run directory of the job without faults, and what it took on as many ranks."""
    folder = tmp_path_factory.mktemp("job")
    make_job(folder, EVALUATION, max_trials=16)
    orders = folder / "none"
    orders.mkdir()
    began_s = time.monotonic()
    ended = run(command(folder, folder / "undisturbed"), {ORDERS: str(orders), **START}, SESSION_S)
    assert ended.code == 3, ended.text
    return folder / "undisturbed", time.monotonic() - began_s


def command(folder: Path, path: Path) -> list[str]:
    settings = [part for key, v in SETTINGS.items() for part in ("--set", f"{key}={v}")]
    return surviving(N_RANKS, "tune", folder / "job.toml", "-o", path, *settings)


def disturb(undisturbed: Path, kinds: list[str], seed: int) -> Disturbed:
    """Run a job with these faults to its end, and hold its table against the undisturbed one."""
    randomness = random.Random(seed)
    path = undisturbed.parent / f"{seed}"
    orders = undisturbed.parent / f"orders-{seed}"
    orders.mkdir()
    waiting, done, began_s = list(kinds), Disturbed(), time.monotonic()
    for _ in range(MOST_SESSIONS):
        session = Launched(command(undisturbed.parent, path), {ORDERS: str(orders), **START})
        scene = Scene(path, orders, session, randomness)
        while waiting and until_a_moment_has_come(session, randomness, len(kinds) - len(waiting), len(kinds)):
            kind = waiting.pop(0)
            hit = FAULTS[kind](scene)
            done.n_struck += hit
            done.story.append(f"{kind}{'' if hit else ' (nothing to hit)'} after {n_rows(session)} rows")
        ended = session.wait(SESSION_S)
        done.story.append(f"ended with {ended.code}")
        what = f"seed {seed}: " + "; ".join(done.story) + "\n" + ended.text
        assert "Traceback" not in ended.text.replace(
            'Traceback (most recent call last):\n  File "eval', ""
        ), what
        if ended.code == 3:
            done.seconds = time.monotonic() - began_s
            assert table(path) == table(undisturbed), what
            assert (path / "best.onnx").read_bytes() == (undisturbed / "best.onnx").read_bytes(), what
            return done
    pytest.fail(f"seed {seed}: not done after {MOST_SESSIONS} sessions: {done.story}")


def until_a_moment_has_come(session: Launched, randomness: random.Random, i: int, n: int) -> bool:
    """Wait while the job starts, or for a row; False when it has ended."""
    if randomness.random() < 0.25:
        time.sleep(randomness.uniform(0.5, 4.0))
    else:
        row = randomness.randrange(N_EARLY * i // n, N_EARLY * (i + 1) // n)
        session.wait_for(f"trial {row} ", SESSION_S)
        time.sleep(randomness.uniform(0.0, 0.3))
    return session.process.poll() is None


def n_rows(session: Launched) -> int:
    return session.said().count(" trial ")


def test_a_few_faults_of_all_sorts_change_nothing(undisturbed: tuple[Path, float]):
    kinds = ["evaluation exits", "agent killed", "messages delayed", "journal torn"]

    disturb(undisturbed[0], kinds, seed=0)


@pytest.mark.on_demand
def test_campaign(undisturbed: tuple[Path, float]):
    path, plain_s = undisturbed
    n_faults = int(os.environ.get("DISTTUNE_FAULTS", "200"))
    seed = int(os.environ.get("DISTTUNE_FAULTS_SEED", "1"))
    lost_s: dict[str, list[float]] = {kind: [] for kind in FAULTS}
    n_struck, deviations = 0, []
    while n_struck < n_faults:
        kind = list(FAULTS)[(seed - 1) % len(FAULTS)]
        try:
            done = disturb(path, [kind] * FAULTS_PER_JOB, seed)
        except (AssertionError, pytest.fail.Exception) as error:  # go on: one is not to hide the others
            deviations.append(seed)
            print(f"seed {seed}: {kind}: DEVIATES: {error}", flush=True)
        else:
            n_struck += done.n_struck
            if done.n_struck:
                lost_s[kind].append((done.seconds - plain_s) / done.n_struck)
            print(f"seed {seed}: {done.seconds:.1f} s; " + "; ".join(done.story), flush=True)
        seed += 1
    print(f"\n{n_struck} faults; the undisturbed job takes {plain_s:.1f} s; seconds lost per fault:")
    for kind, lost in lost_s.items():
        if lost:
            print(f"  {kind:24}{mean(lost):6.1f} (at most {max(lost):.1f}, {len(lost)} jobs)")
    assert not deviations
