"""What samplers find at equal numbers of trials: median over 20 synthetic landscapes whose best is 1.0.

python -m tests.benchmarks.bench_samplers [TRIALS]
"""

import sys
import time
from importlib.util import find_spec
from pathlib import Path
from statistics import median

from disttune.schedule.exit_policy import ExitPolicy
from disttune.schedule.simulation import SimulatedJob, simulate
from disttune.schedule.synthetic import additive_landscape, synthetic_space, synthetic_transformer
from disttune.strategy.registry import make_strategy

NEEDS = {"bayesian": "sklearn", "cmaes": "cmaes", "qmc": "scipy"}


def main(n_trials: int) -> None:
    summary = synthetic_transformer(2)
    space = synthetic_space(summary, "auto")
    print(f"{n_trials} trials of {space.op_wise().size_text} candidates")
    print(f"{'strategy':>12} {'median':>8} {'worst':>8} {'best':>8} {'ms/trial':>9}")
    for name in ("random", "exhaustive", "qmc", "cmaes", "tpe", "sigopt", "nsgaii", "bayesian"):
        if find_spec(NEEDS.get(name, "optuna")) is None:
            continue
        found, started = [], time.perf_counter()
        for seed in range(20):
            job = SimulatedJob(
                lambda name=name: make_strategy(name, {}, Path()),
                space,
                additive_landscape(seed),
                goal=2.0,
                policy=ExitPolicy("budget", max_trials=n_trials),
                summary=summary,
                seed=seed,
            )
            found.append(max(row[4][0] for row in simulate(job, check=False).table))
        seconds = time.perf_counter() - started
        print(
            f"{name:>12} {median(found):>8.4f} {min(found):>8.4f} {max(found):>8.4f} "
            f"{seconds / 20 / n_trials * 1e3:>9.2f}"
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 60)
