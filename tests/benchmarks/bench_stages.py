"""How well a stage fills the workers: 200 ops one by one in float on 64 of them, against the ideal time.

    python -m tests.benchmarks.bench_stages

The ideal is the least time in which so many tasks of these durations could end: the longest one, or the sum
over all workers, or for equal ones the number of rounds.
"""

import math
import random
import time

from disttune.schedule.exit_policy import ExitPolicy
from disttune.schedule.simulation import SimulatedJob, simulate
from disttune.strategy import Stage
from tests.simulated import Listed, small_space

N_OPS = 200


def ideal_s(durations: list[float], workers: int) -> float:
    if len(set(durations)) == 1:
        return math.ceil(len(durations) / workers) * durations[0]
    return max(max(durations), sum(durations) / workers)


def main() -> None:
    space = small_space(N_OPS)
    start = space.default_candidate()
    singles = [start.in_float(op) for op in reversed(space.ops)]
    print(f"{'durations':>14} {'workers':>8} {'simulated s':>12} {'ideal s':>9} {'ratio':>6} {'own ms':>7}")
    for name, spread in [("all 1 s", 0.0), ("0.5 to 1.5 s", 0.5), ("0.1 to 1.9 s", 0.9)]:
        seconds = {c.digest: 1 + spread * random.Random(c.digest).uniform(-1, 1) for c in singles}
        for workers in (1, 8, 64):
            job = SimulatedJob(
                lambda: Listed(Stage("ops in float one by one", singles)),
                space,
                lambda candidate: 0.5,
                goal=2.0,
                policy=ExitPolicy("budget", max_trials=10_000),
                duration_s=lambda item, rank, seconds=seconds: seconds[item.digest],
            )
            started = time.perf_counter()
            simulated_s = simulate(job, workers, check=False).time_s
            own_ms = (time.perf_counter() - started) * 1e3
            ideal = ideal_s(list(seconds.values()), workers)
            print(
                f"{name:>14} {workers:>8} {simulated_s:>12.2f} {ideal:>9.2f} {simulated_s / ideal:>6.3f} "
                f"{own_ms:>7.0f}"
            )


if __name__ == "__main__":
    main()
