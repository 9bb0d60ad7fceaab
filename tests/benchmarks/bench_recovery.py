"""What wins accuracy back on a model: metric, size and seconds of each algorithm and of searches over them.

    python -m tests.benchmarks.bench_recovery JOB.toml ... [--only CLE,AMP] [--max-trials 60]
        [--set section.key=value ...] [--timeout 600]

The first row is static int8 with one scale per weight; each of the next adds one algorithm to it, the best of
its settings where there are several. amp and autoquant search until the job's goal is met, among all the job
leaves open. "s" is the whole job with loading, float model and calibration, which "none" has too. --set goes
to every job. Times are of this machine; look at the ratios.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from disttune.cli.space import space_of
from disttune.config.job_file import load_job
from disttune.strategy.autoquant import AFTER
from disttune.strategy.autoquant_steps import CONVOLUTIONS, PRODUCTS, STEPS
from tests.benchmarks.bench_strategies import Run, run

OUT_OF_REACH = 'accuracy={criterion="absolute",tolerable_loss=-1e6}'
ROWS: dict[str, tuple[str, str]] = {  # name -> step that is left in, further keywords
    "none": ("", ""),
    "CLE": ("equalization", ""),
    "SmoothQuant": ("smoothing", "outlier_ratio=1.0"),
    "bias correction": ("correction", ""),
    "adaround": ("rounding", 'rounding=["adaround"]'),
    "adaquant": ("rounding", 'rounding=["adaquant"]'),
    "seqmse": ("rounding", 'rounding=["seqmse"]'),
    "gptq": ("rounding", 'rounding=["gptq"]'),
}
SEARCHES = ("amp", "autoquant")


def main() -> None:
    given = arguments()
    for path in given.jobs:
        print(path, *given.set)
        print(f"{'':>16} {'metric':>9} {'goal':>4} {'kB':>8} {'trials':>6} {'s':>7}")
        for name in given.only:
            try:
                line = row(path, name, given.set, given.max_trials, given.timeout)
            except (RuntimeError, pytest.fail.Exception) as error:
                line = str(error).splitlines()[0]
            print(f"{name:>16} {line}", flush=True)


def row(path: Path, name: str, settings: Sequence[str], max_trials: int, timeout_s: float) -> str:
    """One line of the table."""
    if name in SEARCHES:
        overrides = [f'tuning.strategy="{name}"', 'tuning.stop_at="goal"', f"tuning.max_trials={max_trials}"]
        return in_words(run(path, [*settings, *overrides], 1, timeout_s), "")
    step, keywords = ROWS[name]
    skip = [key for key in (*STEPS, *AFTER) if key != step]
    kwargs = ", ".join(filter(None, [f"skip={skip}".replace("'", '"'), keywords]))
    overrides = [f"tuning.strategy_kwargs={{{kwargs}}}", 'tuning.strategy="autoquant"', OUT_OF_REACH]
    return in_words(run(path, [*settings, *per_tensor(path, settings), *overrides], 1, timeout_s), step)


def in_words(done: Run, stage: str) -> str:
    """The best of a stage, or the best of all."""
    rows = [r for r in done.rows if r["status"] == "ok" and (r["stage"] == stage or not stage)]
    if not rows:
        return "does not apply"
    best = done.result["best"]
    if stage:
        pick = max if done.result["higher_is_better"] else min
        chosen = pick(rows, key=lambda r: float(r["metric"]))
    else:
        chosen = next(r for r in rows if int(r["trial"]) == best["trial"])
    met = "met" if chosen["meets_goal"] == "true" else "-"
    return (
        f"{float(chosen['metric']):>9.5g} {met:>4} {int(chosen['size_bytes']) / 1e3:>8.0f} "
        f"{done.result['trials']:>6} {done.result['seconds']:>7.1f}"
    )


def per_tensor(path: Path, settings: Sequence[str]) -> list[str]:
    """One scale per weight for the model's op types that have weights."""
    present = space_of(load_job(path, [s for s in settings if s.startswith("quantization.")])).op_types
    types = [t for t in (*CONVOLUTIONS, *PRODUCTS) if t in present]
    return [f'quantization.op_types.{t}.weight.granularity=["per_tensor"]' for t in types]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("jobs", nargs="+", type=Path)
    names = (*ROWS, *SEARCHES)
    parser.add_argument("--only", type=lambda text: text.split(","), default=names)
    parser.add_argument("--max-trials", type=int, default=60)
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--timeout", type=float, default=600.0)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
