"""The scheduler alone: microseconds per event, and every invariant after every event.

python -m tests.benchmarks.bench_scheduler
"""

import random
import time

from disttune.schedule.exit_policy import ExitPolicy
from disttune.strategy.random import Random
from tests.simulated import SimulatedJob, simulate, small_space


def job(n_trials: int) -> SimulatedJob:
    return SimulatedJob(
        Random,
        small_space(20),
        lambda candidate: 0.5,
        policy=ExitPolicy("budget", max_trials=n_trials),
        duration_s=lambda item, rank: random.Random(f"{rank}{item.digest}").uniform(0.25, 0.75),
    )


COLUMNS = ("trials", "workers", "deaths", "checked", "us/event", "efficiency", "in order")


def main() -> None:
    print("".join(f"{name:>12}" for name in COLUMNS))
    for n_trials, n_workers, n_deaths, check in [
        (10_000, 1024, 0, False),
        (10_000, 1024, 100, False),
        (10_000, 1024, 100, True),
        (10_000, 16, 3, False),
    ]:
        rng = random.Random(1)
        lost = {rank: rng.uniform(0, 4) for rank in rng.sample(range(1, n_workers), n_deaths)}
        started = time.perf_counter()
        result = simulate(job(n_trials), n_workers, lost, nodes=max(1, n_workers // 8), check=check)
        us_per_event = (time.perf_counter() - started) / result.n_events * 1e6
        in_order = [row[0] for row in result.table] == list(range(n_trials))
        efficiency = result.busy_s / (n_workers - n_deaths) / result.time_s
        cells = (n_trials, n_workers, n_deaths, check, f"{us_per_event:.1f}", f"{efficiency:.3f}", in_order)
        print("".join(f"{cell!s:>12}" for cell in cells))


if __name__ == "__main__":
    main()
