"""Each strategy on real jobs: trials to the goal, what it found, seconds, and whether ranks change the table.

    python -m tests.benchmarks.bench_strategies [JOB.toml ...] [--ranks 1,2] [--strategies basic,mse]
        [--max-trials 30] [--set section.key=value ...] [--timeout 600]

Without a job: the bundled examples, as they are and with the options left that miss the goal, on 1, 2 and 4
ranks. "first" is the number of the first trial that meets the goal, "in float" how many of the job's
quantizable ops the best leaves there, "s" the whole search on each number of ranks, "same" whether the tables
agree in all but seconds and ranks. --set goes to every job. Times are of this machine; look at the ratios.
"""

import argparse
import csv
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from disttune import examples
from disttune.cli.space import space_of
from disttune.config.job_file import load_job
from disttune.space.candidate import Candidate
from tests.distributed.launch import Launched, disttune, mpirun

STRATEGIES = (
    "default", "auto", "conservative", "basic", "mse", "mse_v2", "hawq_v2", "bayesian", "tpe", "sigopt",
    "nsgaii", "cmaes", "qmc", "random", "exhaustive", "amp", "auto_mixed_precision", "autoquant",
)  # fmt: skip
NEEDS = {"bayesian": "sklearn", "cmaes": "cmaes", "qmc": "scipy"}
EXAMPLES = Path(examples.__file__).parent
CNN, TRANSFORMER = (EXAMPLES / name / "job.toml" for name in ("digits_cnn", "digits_transformer"))
DEMOS: list[tuple[Path, list[str]]] = [
    (CNN, []),
    (CNN, ['quantization.op_types.Conv.weight.granularity=["per_tensor"]']),
    (TRANSFORMER, []),
    (TRANSFORMER, ['quantization.op_types.MatMul.activation.method=["minmax"]']),
]
SAME = (
    "trial", "stage", "digest", "model_digest", "duplicate_of", "status", "metric", "meets_goal",
    "size_bytes",
)  # fmt: skip


@dataclass(frozen=True)
class Run:
    result: dict[str, Any]
    rows: list[dict[str, str]]

    @property
    def table(self) -> list[list[str]]:
        return [[row[name] for name in SAME] for row in self.rows]


def main() -> None:
    given = arguments()
    jobs = [(path, list[str]()) for path in given.jobs] or DEMOS
    ranks = given.ranks or ([1, 2] if given.jobs else [1, 2, 4])
    strategies = [s for s in given.strategies if find_spec(NEEDS.get(s, "optuna")) is not None]
    for path, settings in jobs:
        print(f"{path}, at most {given.max_trials} trials", *given.set, *settings)
        on_ranks = f"s on {', '.join(map(str, ranks))} ranks"
        print(
            f"{'strategy':>20} {'trials':>6} {'probes':>6} {'first':>5} {'best':>9} {'in float':>8} "
            f"{'kB':>8} {on_ranks:>22}  same"
        )
        for strategy in strategies:
            overrides = [*settings, *given.set, f'tuning.strategy="{strategy}"']
            overrides += [f"tuning.max_trials={given.max_trials}", 'tuning.stop_at="goal"']
            print(f"{strategy:>20} {measured(path, overrides, ranks, given.timeout)}", flush=True)


def measured(path: Path, overrides: Sequence[str], ranks: Sequence[int], timeout_s: float) -> str:
    """One line of the table, or why there is none."""
    try:
        runs = [run(path, overrides, n, timeout_s) for n in ranks]
    except (RuntimeError, pytest.fail.Exception) as error:
        return str(error).splitlines()[0]
    result, best = runs[0].result, runs[0].result["best"]
    first = next((row["trial"] for row in runs[0].rows if row["meets_goal"] == "true"), "-")
    if best is None:
        found = f"{'-':>9} {'-':>8} {'-':>8}"
    else:
        found = (
            f"{best['metric']:>9.5g} {n_in_float(path, overrides, best):>8} {best['size_bytes'] / 1e3:>8.0f}"
        )
    seconds = ", ".join(f"{r.result['seconds']:.1f}" for r in runs)
    same = "yes" if all(r.table == runs[0].table for r in runs) else "NO"
    return f"{result['trials']:>6} {result['probes']:>6} {first:>5} {found} {seconds:>22}  {same}"


def run(path: Path, overrides: Sequence[str], ranks: int, timeout_s: float) -> Run:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "run")
        settings = [part for override in overrides for part in ("--set", override)]
        tune = ["tune", path, "-o", folder, "--quiet", *settings]
        ended = Launched(disttune(*tune) if ranks == 1 else mpirun(ranks, *tune)).wait(timeout_s)
        if not (folder / "result.json").is_file():
            raise RuntimeError(f"code {ended.code}: {ended.text.strip()[-200:]}")
        result = json.loads((folder / "result.json").read_text())
        return Run(result, list(csv.DictReader((folder / "trials.csv").open())))


def n_in_float(path: Path, overrides: Sequence[str], best: dict[str, Any]) -> int:
    """Ops of the job's space that the best candidate leaves in float."""
    ops = ops_of(path, *(o for o in overrides if o.startswith("quantization.")))
    candidate = Candidate.from_dict(best["candidate"], ops)
    return len(candidate.ops) - len(candidate.quantized_ops)


@cache
def ops_of(path: Path, *overrides: str) -> tuple[str, ...]:
    """Quantizable ops of a job."""
    return space_of(load_job(path, list(overrides))).ops


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("jobs", nargs="*", type=Path)
    parser.add_argument("--ranks", type=lambda text: [int(n) for n in text.split(",")])
    parser.add_argument("--strategies", type=lambda text: text.split(","), default=STRATEGIES)
    parser.add_argument("--max-trials", type=int, default=30)
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--timeout", type=float, default=600.0)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
