"""Real mpirun with sleeping trials: efficiency without the start, the start itself, and what agents cost.

    python -m tests.benchmarks.bench_mpi [RANKS ...]

A trial is built as ever and sleeps for 0.25 to 0.75 s, so that many more ranks than cores can be tried.
"start s" is from mpirun to the moment when every rank has begun a trial; what follows, to the last result,
"took s". "efficient" is the share of that time which the ranks spent in trials as the journal has them (the
bound is 100 %: their sum over the ranks), "asleep" the share in which they slept. Processor time is in
percent of a core: of rank 0's agent (the master, too) and of another agent meanwhile; then, with one long
trial, of the agent and the trial process of a rank without work (mean and greatest). "load" is the machine's.
"""

import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from disttune.runtime.records import ResultRecord
from tests.distributed.jobs import make_job, records
from tests.distributed.launch import Launched, mpirun

TRIALS_PER_RANK = 30
SLEEPING = """\
import random
time.sleep(random.uniform(0.25, 0.75) if n >= 0 else 0.5)
return 0.5 if n >= 0 else 1.0
"""
ONE_LONG = """\
time.sleep(600 if n >= 0 else 0.5)
return 0.5
"""
IDLE_S = 20.0
SETTLING_S = 5.0
QUIET = 0.1  # of a core: less than what loading takes
TIMEOUT_S = 900.0
COLUMNS = ("ranks", "trials", "start s", "took s", "efficient", "asleep", "rank 0 %", "agent %", "idle %",
           "greatest", "load")  # fmt: skip


@dataclass(frozen=True)
class Work:
    """What the ranks did once all had begun.

    Args:
        start_s: from mpirun until then.
        took_s: from then on.
        busy: share of the ranks' time in trials.
        asleep: share in evaluations.
        cores: used by each agent, rank 0 first.
    """

    n_trials: int
    start_s: float
    took_s: float
    busy: float
    asleep: float
    cores: list[float]


def work(n_ranks: int, folder: Path) -> Work:
    """Run a job of sleeping trials to its end."""
    n_trials = n_ranks * TRIALS_PER_RANK
    job = make_job(folder, SLEEPING, n_ops=math.ceil(math.log2(n_trials)), max_trials=n_trials)
    began_s = time.time()
    launched = Launched(mpirun(n_ranks, "tune", job, "-o", folder / "run"))
    launched.wait_for("stage: ", TIMEOUT_S)
    before = usage(launched)
    since_s = time.monotonic()
    agents = {}
    while launched.process.poll() is None:
        for pid, seconds in usage(launched).items():
            agents[pid] = (seconds - before.get(pid, 0.0)) / max(1.0, time.monotonic() - since_s)
        time.sleep(1.0)
    ended = launched.wait(TIMEOUT_S)
    assert ended.code == 3, ended.text
    results = records(folder / "run", ResultRecord)
    first = {rank: min(r.t - r.seconds for r in results if r.rank == rank) for rank in range(n_ranks)}
    from_s, to_s = max(first.values()), max(r.t for r in results)
    all_s = n_ranks * (to_s - from_s)
    last_written_s = (folder / "run" / "result.json").stat().st_mtime
    return Work(
        n_trials,
        last_written_s - began_s - (to_s - from_s),
        to_s - from_s,
        sum(r.t - max(from_s, r.t - r.seconds) for r in results if r.t > from_s) / all_s,
        sum(r.t - max(from_s, r.t - r.evaluation_s) for r in results if r.t > from_s) / all_s,
        list(agents.values()),
    )


def usage(launched: Launched) -> dict[int, float]:
    """Processor seconds so far of each agent, by process id, rank 0 first."""
    return seconds_of(dict(sorted(launched.agents().items())))


def seconds_of(processes: Mapping[int, psutil.Process]) -> dict[int, float]:
    found = {}
    for process in processes.values():
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        found[process.pid] = times.user + times.system
    return found


def idle(n_ranks: int, folder: Path) -> list[float]:
    """Cores that the agent and the trial process of each rank but the one with work use."""
    job = make_job(folder, ONE_LONG, max_trials=1, trial_timeout=TIMEOUT_S)
    launched = Launched(mpirun(n_ranks, "tune", job, "-o", folder / "run"))
    try:
        launched.wait_for("stage: ", TIMEOUT_S)
        processes = {}
        while len(processes) < 2 * n_ranks or max(cores(processes, SETTLING_S).values()) > QUIET:
            processes = {p.pid: p for p in (*launched.agents().values(), *launched.trial_processes())}
        used = cores(processes, IDLE_S)
        agents = {rank: p.pid for rank, p in launched.agents().items()}
        trials = {p.ppid(): p.pid for p in launched.trial_processes()}
        return [used[pid] + used[trials[pid]] for rank, pid in agents.items() if rank]
    finally:
        launched.kill_all()
        launched.process.wait()


def cores(processes: Mapping[int, psutil.Process], during_s: float) -> dict[int, float]:
    before = seconds_of(processes)
    time.sleep(during_s)
    return {pid: (s - before.get(pid, 0.0)) / during_s for pid, s in seconds_of(processes).items()}


def main(counts: list[int]) -> None:
    print("".join(f"{name:>10}" for name in COLUMNS), flush=True)
    for n_ranks in counts:
        with tempfile.TemporaryDirectory() as folder:
            done, unused = work(n_ranks, Path(folder, "work")), idle(n_ranks, Path(folder, "idle"))
        rank_0, *others = done.cores
        cells = [n_ranks, done.n_trials, f"{done.start_s:.1f}", f"{done.took_s:.1f}", f"{done.busy:.1%}"]
        cells += [f"{done.asleep:.1%}", f"{rank_0:.1%}", f"{statistics.mean(others):.1%}"]
        cells += [f"{statistics.mean(unused):.2%}", f"{max(unused):.2%}", f"{os.getloadavg()[0]:.1f}"]
        print("".join(f"{cell!s:>10}" for cell in cells), flush=True)


if __name__ == "__main__":
    main([int(n) for n in sys.argv[1:]] or [2, 8, 32, 64])
