"""The master at scale: efficiency, memory, and microseconds for each message that it handles.

python -m tests.benchmarks.bench_scale [RANKS TRIALS]

The real search and scheduler on simulated ranks; records are encoded as the journal does, not written. The
seconds of a trial depend on how many ops it leaves in float, give or take 5 %. "bound" is the greater of all
seconds over the ranks and the longest trial; "us/message" is processor time of the master and the simulated
ranks.
"""

import random
import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

from disttune.runtime.journal import encode_line
from disttune.runtime.listener import Silent
from disttune.runtime.messages import ToMaster
from disttune.runtime.rare_collections import rare_collections
from disttune.runtime.records import Record
from disttune.runtime.search import Search
from disttune.runtime.transport.simulated import SimulatedRun, SimulatedTransport
from disttune.schedule.exit_policy import ExitPolicy
from disttune.schedule.outcome import Outcome
from disttune.space.candidate import Candidate
from disttune.strategy.stage import Item, Stage
from tests.simulated import Listed, SimulatedJob, small_space

N_OPS = 20
RANKS_PER_NODE = 32
MESSAGE_S = 50e-6
COLUMNS = ("stage", "ranks", "trials", "time s", "of bound", "us/message", "MB")


@dataclass
class Scale:
    """What came of it."""

    time_s: float
    bound_s: float
    n_messages: int
    master_s: float


class Encoded:
    """A journal that is on disk at once."""

    durable = 0

    def append(self, record: Record) -> int:
        self.durable += 1
        encode_line(self.durable, 1, record)
        return self.durable


def seconds_of(item: Candidate) -> float:
    n_float = N_OPS - len(item.quantized_ops)
    return (10 + 2 * n_float) * random.Random(item.digest).uniform(0.95, 1.05)


def run_at_scale(n_ranks: int, n_trials: int, as_list: bool) -> Scale:
    """Trials with 0 to 20 ops in float, all of them measured."""
    items = list(candidates(n_trials))
    seconds = {item.digest: seconds_of(item) for item in items}
    stage = Stage("all", items if as_list else iter(items), goal_stops=False)
    policy = ExitPolicy("budget", max_trials=n_trials)
    job = SimulatedJob(lambda: Listed(stage), small_space(N_OPS), lambda _: 0.5, policy=policy)
    taken: list[float] = []

    def run(item: Item, rank: int, n_before: int) -> SimulatedRun:
        assert isinstance(item, Candidate)
        taken.append(seconds[item.digest])
        outcome = Outcome("ok", (0.5,), None, item.digest, 100, 5, taken[-1], taken[-1])
        return SimulatedRun(outcome, 1.0, taken[-1] - 1.0)

    transport = SimulatedTransport(n_ranks, run, message_s=MESSAGE_S)
    search = Search(job.scheduler(), transport, Encoded(), Silent(), trial_timeout_s=1e9)
    began_s = time.thread_time()
    with rare_collections():
        search.start()
        for rank in range(n_ranks):
            search.join(rank, f"node-{rank // RANKS_PER_NODE}")
        while not search.done:
            for envelope in transport.receive(1.0):
                assert isinstance(envelope.message, ToMaster)
                search.receive(envelope.source, envelope.message)
                search.poll()
    master_s = time.thread_time() - began_s
    bound_s = max(sum(taken) / n_ranks, max(taken))
    return Scale(transport.now_s(), bound_s, 2 * len(taken), master_s)


def candidates(n: int) -> Iterator[Candidate]:
    """Different ones, with any number of ops in float."""
    start = small_space(N_OPS).default_candidate()
    for number in random.Random(0).sample(range(2**N_OPS - 1), n):
        yield start.in_float(*(op for i, op in enumerate(start.ops) if number >> i & 1))


def main(n_ranks: int = 4096, n_trials: int = 100_000) -> None:
    print("".join(f"{name:>12}" for name in COLUMNS))
    for as_list in (True, False):
        found = run_at_scale(n_ranks, n_trials, as_list)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        us = found.master_s / found.n_messages * 1e6
        cells = ("list" if as_list else "lazy", n_ranks, n_trials, f"{found.time_s:.1f}")
        cells += (
            f"{found.bound_s / found.time_s:.2%}",
            f"{us:.1f}",
            f"{memory:.0f}",
        )
        print("".join(f"{cell!s:>12}" for cell in cells), flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
