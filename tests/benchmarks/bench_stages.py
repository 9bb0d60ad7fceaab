"""How well a stage fills the workers: 200 ops one by one in float on 64 of them, against the ideal time.

    python -m tests.benchmarks.bench_stages

The ideal is the least time that tasks of these durations can take on so many workers, were all of them known:
the longest one, the sum over all workers, or for k * workers + 1 of them, one worker having k + 1, the sum of
the k + 1 shortest of the longest k * workers + 1.

`any order` is the mean over random orders of giving the next task to whoever is idle. Where durations cannot
be told apart before they are known, no order and no pause does better: whatever is started next has the same
distribution, and by induction every worker is free no later than with any other choice. `longest first` is
what known durations would give. All columns are medians of 9 draws of durations. In `split` a trial has 256
blocks of samples that idle ranks may score, and building it takes 2 % of the mean on each rank. That can be
less than the ideal of whole trials: `least` is the sum of all durations over all workers.
"""

import heapq
import random
import time
from collections.abc import Callable, Iterable
from statistics import mean, median

from disttune.schedule.exit_policy import ExitPolicy
from disttune.schedule.simulation import SimulatedJob, simulate
from disttune.space.candidate import Candidate
from disttune.space.space import Space
from disttune.space.summary import ModelSummary, OpSummary
from disttune.strategy import Stage
from tests.simulated import OPTIONS, Listed

N_OPS = 200
N_BLOCKS = 256
BUILDING = 0.02  # of a trial, on each rank that has a part in it
TYPES = ("Conv", "MatMul", "Gemm", "Add")
Draw = Callable[[random.Random, OpSummary], float]


def ideal_s(durations: list[float], workers: int) -> float:
    longest = sorted(durations, reverse=True)
    rounds = (
        sum(longest[k * workers - k : k * workers + 1]) for k in range(1, (len(longest) - 1) // workers + 1)
    )
    return max([longest[0], sum(longest) / workers, *rounds])


def in_order_s(durations: Iterable[float], workers: int) -> float:
    """The end of a list of tasks, each started by whoever is free first."""
    free_s = [0.0] * workers
    for seconds in durations:
        heapq.heapreplace(free_s, free_s[0] + seconds)
    return max(free_s)


def any_order_s(durations: list[float], workers: int) -> float:
    orders = (random.Random(i).sample(durations, len(durations)) for i in range(50))
    return mean(in_order_s(order, workers) for order in orders)


def model() -> tuple[ModelSummary, Space]:
    """Ops of four types; the work of each is drawn from a wide range."""
    rng = random.Random(0)
    ops = tuple(
        OpSummary(
            f"op_{i}", rng.choice(TYPES), (f"t{i}",), (f"t{i + 1}",), n_macs=round(10 ** rng.uniform(3, 6))
        )
        for i in range(N_OPS)
    )
    space = Space({op.name: OPTIONS for op in ops}, {op.name: op.op_type for op in ops})
    return ModelSummary(ops, ("t0",), (f"t{N_OPS}",), 17, 1000, 250), space


def by_type(rng: random.Random, op: OpSummary) -> float:
    return (0.4, 0.8, 1.2, 1.6)[TYPES.index(op.op_type)] * rng.uniform(0.95, 1.05)


def by_work(rng: random.Random, op: OpSummary) -> float:
    return (0.5 + 1.5 * op.n_macs / 1e6) * rng.uniform(0.95, 1.05)


def against_work(rng: random.Random, op: OpSummary) -> float:
    return (2.0 - 1.5 * op.n_macs / 1e6) * rng.uniform(0.95, 1.05)


DRAWS: dict[str, Draw] = {
    "all 1 s": lambda rng, op: 1.0,
    "0.95 to 1.05 s": lambda rng, op: rng.uniform(0.95, 1.05),
    "0.5 to 1.5 s": lambda rng, op: rng.uniform(0.5, 1.5),
    "0.1 to 1.9 s": lambda rng, op: rng.uniform(0.1, 1.9),
    "by type, 5 %": by_type,
    "by work, 5 %": by_work,
    "against work": against_work,
}


def main() -> None:
    summary, space = model()
    start = space.default_candidate()
    singles = {start.in_float(op.name).digest: op for op in reversed(summary.ops)}
    candidates = [start.in_float(op.name) for op in singles.values()]
    print(f"{N_OPS} ops one by one; times as multiples of the ideal, median of 9 draws")
    print(
        f"{'durations':>15} {'workers':>8} {'disttune':>9} {'split':>6} {'least':>6} {'any order':>10} "
        f"{'longest first':>14} {'own ms':>7}"
    )
    for name, draw in DRAWS.items():
        for workers in (1, 8, 64):
            print(f"{name:>15} {workers:>8} {line(draw, workers, summary, space, singles, candidates)}")


def line(
    draw: Draw,
    workers: int,
    summary: ModelSummary,
    space: Space,
    singles: dict[str, OpSummary],
    candidates: list[Candidate],
) -> str:
    found: list[tuple[float, float, float, float, float]] = []
    started = time.perf_counter()
    for seed in range(9):
        rng = random.Random(seed)
        seconds = {digest: draw(rng, op) for digest, op in singles.items()}
        durations = list(seconds.values())
        ideal = ideal_s(durations, workers)
        found.append((
            simulated_s(seconds, workers, summary, space, candidates) / ideal,
            simulated_s(seconds, workers, summary, space, candidates, N_BLOCKS) / ideal,
            sum(durations) / workers / ideal,
            any_order_s(durations, workers) / ideal,
            in_order_s(sorted(durations, reverse=True), workers) / ideal,
        ))  # fmt: skip
    ours, split, least, any_order, longest_first = (median(column) for column in zip(*found, strict=True))
    own_ms = (time.perf_counter() - started) / 9 * 1e3
    return (
        f"{ours:>9.3f} {split:>6.3f} {least:>6.3f} {any_order:>10.3f} {longest_first:>14.3f} {own_ms:>7.0f}"
    )


def simulated_s(
    seconds: dict[str, float],
    workers: int,
    summary: ModelSummary,
    space: Space,
    candidates: list[Candidate],
    n_blocks: int = 0,
) -> float:
    build_s = BUILDING * mean(seconds.values()) if n_blocks else 0.0
    job = SimulatedJob(
        lambda: Listed(Stage("ops in float one by one", candidates)),
        space,
        lambda candidate: 0.5,
        goal=2.0,
        policy=ExitPolicy("budget", max_trials=10_000),
        duration_s=lambda item, rank: max(0.0, seconds[item.digest] - build_s),
        summary=summary,
        n_blocks=n_blocks,
        build_s=build_s,
        evaluation_s=mean(seconds.values()),
    )
    return simulate(job, workers, check=False).time_s


if __name__ == "__main__":
    main()
