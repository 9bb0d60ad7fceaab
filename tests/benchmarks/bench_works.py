"""What a work costs beside the work itself: empty works with results of a size, on 1 and 2 ranks.

    python -m tests.benchmarks.bench_works

From the first question for works to a built candidate, divided by their number: handing out, the way of the
result over pipe, MPI and memory file, and learning it. The least of 3 runs.
"""

import os
import tempfile
import time
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from disttune.quantize.engine import register_engine
from disttune.quantize.fast import FastEngine
from disttune.quantize.work import Work
from disttune.space.candidate import Candidate
from tests.distributed.jobs import make_job
from tests.distributed.launch import disttune, mpirun, run

SIZES = {2**10: 1000, 2**20: 100, 2**23: 32}  # bytes of a result: number of works


@register_engine("empty works")
class EmptyWorks:
    """The fast engine, after works that do nothing; `BENCH_WORKS` is their number, result size and a file."""

    methods: ClassVar[frozenset[str]] = FastEngine.methods
    approaches: ClassVar[frozenset[str]] = FastEngine.approaches
    recipes: ClassVar[frozenset[str]] = FastEngine.recipes

    def __init__(self, *arguments: Any):
        self._fast = FastEngine(*arguments)
        n_works, n_bytes, self._path = os.environ["BENCH_WORKS"].split(",")
        self._works = tuple(Work("solve", f"{i:x}", f"work {i}") for i in range(int(n_works)))
        self._result = np.zeros(int(n_bytes), np.uint8)
        self._learnt: set[str] = set()
        self._began_s = 0.0

    def missing(self, candidate: Candidate) -> tuple[Work, ...]:
        self._began_s = self._began_s or time.monotonic()
        return tuple(work for work in self._works if work.key not in self._learnt)

    def run(self, work: Work) -> Any:
        return {"x": self._result}

    def learn(self, work: Work, results: Any) -> None:
        self._learnt.add(work.key)

    def build(self, candidate: Candidate) -> Any:
        Path(self._path).write_text(str(time.monotonic() - self._began_s))
        return self._fast.build(candidate)


def measure(n_ranks: int, n_works: int, n_bytes: int) -> float:
    """Milliseconds for each work."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        job = make_job(folder, quantization='engine = "empty works"', max_trials=1)
        evaluation = folder / "eval.py"
        evaluation.write_text(f"import tests.benchmarks.bench_works\n{evaluation.read_text()}")
        arguments = ("tune", job, "-o", folder / "run")
        command = disttune(*arguments) if n_ranks == 1 else mpirun(n_ranks, *arguments)
        ended = run(command, {"BENCH_WORKS": f"{n_works},{n_bytes},{folder / 'seconds'}"})
        assert ended.code == 3, ended.text
        return 1000 * float((folder / "seconds").read_text()) / n_works


def main() -> None:
    print(f"{'result':>10} {'works':>6} {'1 rank':>10} {'2 ranks':>10}   ms for each work")
    for n_bytes, n_works in SIZES.items():
        alone, two = (min(measure(n, n_works, n_bytes) for _ in range(3)) for n in (1, 2))
        print(f"{n_bytes / 1024:>6g} kB {n_works:>6} {alone:>10.2f} {two:>10.2f}")


if __name__ == "__main__":
    main()
