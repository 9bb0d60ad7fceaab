"""Auto Search on the digits CNN: 32 combinations of methods, types and CLE; how fast the default space opens.

    python -m tests.benchmarks.bench_auto_search [--ranks 1,2]

"job" is from the start of the ranks to the end, "processor" all seconds of all processes of the command,
Python's start included. A peer takes 29 s for such a search on two cores.
"""

import argparse
import csv
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from disttune import examples
from disttune.config.goal import Goal, Objective
from disttune.schedule.synthetic import synthetic_cnn, synthetic_space
from disttune.strategy.auto_search import AutoSearch
from disttune.strategy.tuning import Tuning
from tests.distributed.launch import FOR_MPIRUN, disttune, mpirun

FOLDER = Path(examples.__file__).parent / "digits_cnn"
PEER_S = 29.0
JOB = f"""
[model]
path = "{FOLDER}/model.onnx"
[calibration]
data = "{FOLDER}/calibration.npz"
[evaluation]
metric = "top1"
data = "{FOLDER}/evaluation.npz"
[tuning]
strategy = "auto_search"
stop_at = "budget"
[tuning.strategy_kwargs.search_space]
calibrate_method = ["MinMax", "Entropy", "Percentile", "MinMSE"]
activation_type = ["int8", "uint8"]
weight_type = ["int8", "int16"]
include_cle = [false, true]
"""


def opening() -> None:
    summary = synthetic_cnn()
    tuning = Tuning(synthetic_space(summary), summary, Goal((Objective("top1"),), (1.0,)))
    began = time.perf_counter()
    stage = next(AutoSearch().stages(tuning))
    first = list(islice(stage.items, 1))
    print(f"default space: the first of {tuning.notes[0][13:33]} after {time.perf_counter() - began:.4f} s")
    assert first


def search(ranks: int, folder: Path) -> list[list[str]]:
    """Run the job and print a row; the trial table without seconds and ranks."""
    run = folder / f"run_{ranks}"
    (folder / "job.toml").write_text(JOB)
    command = disttune if ranks == 1 else lambda *a: mpirun(ranks, *a)
    before = os.times()
    subprocess.run(
        command("tune", folder / "job.toml", "-o", run, "--quiet"),
        check=True,
        env={**os.environ, **FOR_MPIRUN},
    )
    after = os.times()
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    result = json.loads((run / "result.json").read_text())
    rows = [row[:8] for row in csv.reader((run / "trials.csv").open())]
    print(
        f"{ranks} rank(s): {result['trials']} trials, job {result['seconds']:.2f} s "
        f"(1/{PEER_S / result['seconds']:.0f} of {PEER_S:g} s), processor {spent:.2f} s"
    )
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--ranks", default="1,2")
    ranks = [int(n) for n in parser.parse_args(arguments).ranks.split(",")]
    opening()
    with tempfile.TemporaryDirectory() as folder:
        tables = [search(n, Path(folder)) for n in ranks]
    print("the same table" if all(t == tables[0] for t in tables) else "TABLES DIFFER")


if __name__ == "__main__":
    main()
