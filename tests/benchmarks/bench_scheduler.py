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


def main() -> None:
    print(
        f"{'trials':>8} {'workers':>8} {'deaths':>7} {'checked':>8} {'us/event':>9} {'efficiency':>11} {'in order':>9}"
    )
    for n_trials, n_workers, n_deaths, check in [
        (10_000, 1024, 0, False),
        (10_000, 1024, 100, False),
        (10_000, 1024, 100, True),
        (10_000, 16, 3, False),
    ]:
        rng = random.Random(1)
        lost = {rank: rng.uniform(0, 4) for rank in rng.sample(range(1, n_workers), n_deaths)}
        tried = job(n_trials)
        started = time.perf_counter()
        result = simulate(tried, n_workers, lost, nodes=max(1, n_workers // 8), check=check)
        seconds = time.perf_counter() - started
        in_order = [row[0] for row in result.table] == list(range(n_trials))
        bound = result.busy_s / (n_workers - n_deaths)
        print(
            f"{n_trials:>8} {n_workers:>8} {n_deaths:>7} {check!s:>8} {seconds / result.n_events * 1e6:>9.1f} "
            f"{bound / result.time_s:>11.3f} {in_order!s:>9}"
        )


if __name__ == "__main__":
    main()
