"""Layer-wise algorithms over ranks: works timed one by one, then played on simulated ranks.

python -m tests.benchmarks.bench_layers [FOLDER ...] [--methods adaround,gptq]

Folders are those of bench_engine; without one: the examples of the package. Every Conv, MatMul and Gemm with
a constant weight, int8 per channel, 128 samples. Seconds are of this machine, one core; the order is that of
the real search and pool. "bound" is the speed-up that no order can beat (`TimedWorks.bound_s`): all seconds
over the ranks, the longest layer or chain of layers. gptq is sequential: layers wait for those before them.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import disttune.examples
from disttune.config.schemes import FLOAT32, OpConfig, Scheme
from disttune.quantize.engine import EngineSettings
from disttune.quantize.fast import FastEngine
from disttune.quantize.work import Results, Work
from disttune.space.candidate import Candidate
from tests.benchmarks.bench_engine import TYPES, Subject, read
from tests.simulated_works import TimedWorks, seconds_with

RANKS = (2, 4, 8)
EXAMPLES = Path(next(iter(disttune.examples.__path__)))


def candidate(subject: Subject, method: str) -> Candidate:
    weight = Scheme("int8", True, "per_channel", method=method)
    config = OpConfig("weight_only", weight) if method == "gptq" else None
    static = OpConfig("static", weight, Scheme("uint8", False))
    return Candidate.of(
        {
            op.name: (config or static) if op.op_type in TYPES and op.weight else FLOAT32
            for op in subject.summary.ops
            if config is None or op.op_type != "Conv"
        }
    )


def timed(subject: Subject, method: str) -> TimedWorks:
    """All works of a candidate, done here; the first of a place twice, to know what measuring takes."""
    engine = FastEngine(subject.prepared, subject.summary, subject.feeds, EngineSettings(n_threads=1))
    wanted = candidate(subject, method)
    seconds: dict[str, float] = {}
    places: dict[str, float] = {}
    works: list[Work] = []
    while missing := engine.missing(wanted):
        for work in missing:
            first_s = None if work.place in places else run(engine, work)[0]
            seconds[work.key], results = run(engine, work)
            if first_s is not None:
                places[work.place] = max(0.0, first_s - seconds[work.key])
            engine.learn(work, results)
        works += missing
    return TimedWorks(works, seconds, places)


def run(engine: FastEngine, work: Work) -> tuple[float, Results]:
    began_s = time.process_time()
    results = engine.run(work)
    return time.process_time() - began_s, results


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument(
        "--methods", type=lambda text: text.split(","), default=("adaround", "adaquant", "gptq")
    )
    given = parser.parse_args()
    folders: Sequence[Path] = given.folders or [EXAMPLES / "digits_cnn", EXAMPLES / "digits_transformer"]
    ranks = "".join(f"{f'{n} ranks':>9}{'bound':>6}" for n in RANKS)
    print(f"{'model':>24} {'method':>9} {'works':>5} {'1 rank s':>9} {'longest':>8}{ranks}")
    for folder in folders:
        subject = read(folder)
        for method in given.methods:
            found = timed(subject, method)
            one_s = seconds_with(found, 1)
            cells = "".join(
                f"{one_s / seconds_with(found, n):>9.2f}{one_s / found.bound_s(n):>6.2f}" for n in RANKS
            )
            longest = max(found.seconds.values())
            n_works = len(found.works)
            print(
                f"{subject.name:>24} {method:>9} {n_works:>5} {one_s:>9.2f} {longest:>8.2f}{cells}",
                flush=True,
            )


if __name__ == "__main__":
    main()
