"""What a second rank on the same node adds: PSS of two trial processes less that of one, idle ones taken off.

    python -m tests.benchmarks.bench_memory [FOLDER ...]

A folder holds `model.onnx` and `eval.py` with `calibration` and `evaluate`; without one an encoder of 90 MB
is made. Both processes hold an int8 candidate: after its session is built, and while they evaluate it.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import onnx
import psutil
from onnx import TensorProto

from disttune.config.job import Job
from disttune.config.job_file import job_from_dict
from disttune.evaluate.user_code import load_function
from disttune.runtime.memory_files import MemoryFiles
from disttune.runtime.messages import Built, EvaluateModel, RunTask
from disttune.runtime.start_messages import (
    CalibrateBlocks,
    Functions,
    Load,
    LoadStatistics,
    MergeStatistics,
    Prepare,
    Prepared,
)
from disttune.runtime.supervisor import Supervisor
from disttune.space.build import build_space
from disttune.space.capability import load_capability
from tests.benchmarks.bench_statistics import _attention, _linear, _normalized
from tests.models import Graph, value

N_SAMPLES = 32
EVERY_S = 0.02
WORDS = 30522
EVAL = f"""
import numpy as np

def _feeds(n, rows):
    random = np.random.default_rng(0)
    for _ in range(n):
        yield {{"ids": random.integers(0, {WORDS}, (rows, 32))}}

def calibration():
    return _feeds({N_SAMPLES}, 1)

def evaluate(model):
    return float(np.mean([np.mean(model.run(None, feed)[0]) for feed in _feeds(20, 16)]))
"""


def write_encoder(folder: Path) -> None:
    """6 layers of width 384 with 12 heads over 30,522 words: 90 MB."""
    g = Graph()
    h = g.node("Gather", g.weight("words", WORDS, 384), "ids")
    for layer in range(6):
        h = _normalized(g, h, _attention(g, h, f"{layer}"), f"{layer}a")
        up = g.node("Gelu", _linear(g, h, 384, 1536, f"{layer}up"))
        h = _normalized(g, h, _linear(g, up, 1536, 384, f"{layer}down"), f"{layer}b")
    g.node("ReduceMean", h, g.constant("axis", np.array([1])), output="y", keepdims=0)
    ids, y = value("ids", ["N", "T"], TensorProto.INT64), value("y", ["N", 384])
    onnx.save(g.model([ids], [y], opset=20), folder / "model.onnx")
    (folder / "eval.py").write_text(EVAL)


class Process:
    """One trial process, as an agent has it."""

    def __init__(self) -> None:
        self.supervisor = Supervisor()
        self.supervisor.start()

    def ask(self, message: object) -> Any:
        self.supervisor.send(message)
        return self.answer()

    def answer(self) -> Any:
        while (answer := self.poll()) is None:
            time.sleep(EVERY_S)
        return answer

    def poll(self) -> Any:
        messages, death = self.supervisor.poll()
        if death is not None:
            raise SystemExit(f"{death.reason}\n{death.stderr_tail}")
        if messages and type(messages[0]).__name__ == "Refused":
            raise SystemExit(messages[0].message)
        return messages[0] if messages else None

    @property
    def pid(self) -> int:
        process = self.supervisor._process
        assert isinstance(process, subprocess.Popen)
        return process.pid


def waiting(evaluate: str, signs: Path) -> Any:
    """An eval_fn that says when its session is built, and waits for word to go on."""
    folder, function = Path(evaluate).parent, Path(evaluate).name + ":evaluate"

    def evaluation(model: Any) -> float:
        model.get_inputs()
        (signs / f"built-{os.getpid()}").touch()
        while not (signs / "go").exists():
            time.sleep(EVERY_S)
        return float(load_function(function, folder)(model))

    return evaluation


def pss_mb(processes: Sequence[Process]) -> float:
    """Of all together, shared pages counted once; without those of program files, which others use too."""
    total = 0
    for process in processes:
        lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()
        total += sum(int(line.split()[1]) for line in lines if line.startswith(("Pss_Anon", "Pss_Shmem")))
    return total / 1024


def until_idle(processes: Sequence[Process]) -> None:
    """Wait for the imports to end: a second without work."""
    seconds = -1.0
    while (now := sum(sum(psutil.Process(p.pid).cpu_times()[:2]) for p in processes)) != seconds:
        seconds = now
        time.sleep(1)


def phases(job: Job, folder: Path, n: int) -> dict[str, float]:
    """PSS in MB of so many trial processes: idle, with a session, and the most while they evaluate."""
    with tempfile.TemporaryDirectory(prefix="disttune-bench-") as name:
        signs = Path(name)
        functions = Functions(cloudpickle.dumps({"eval_fn": waiting(str(folder / "eval.py"), signs)}))
        files, processes = MemoryFiles(), [Process() for _ in range(n)]
        try:
            return _phases(job, functions, signs, files, processes)
        finally:
            for process in processes:
                process.supervisor.close()
            files.close()


def _phases(
    job: Job, functions: Functions, signs: Path, files: MemoryFiles, processes: Sequence[Process]
) -> dict[str, float]:
    until_idle(processes)
    found = {"idle": pss_mb(processes)}
    first = processes[0]
    replica = files.new("replica")
    prepared = first.ask(Prepare(job, functions, 1, replica))
    assert isinstance(prepared, Prepared)
    load = Load(job, functions, 1, replica, job.folder, prepared.summary)
    for process in processes:
        process.ask(load)
    found["loaded"] = pss_mb(processes)
    parts = tuple(first.ask(CalibrateBlocks(range(i, i + 1))).part for i in range(prepared.n_blocks))
    statistics = files.new("statistics")
    first.ask(MergeStatistics(parts, signs, statistics))
    space = build_space(prepared.summary, load_capability("ort-cpu"), job.quantization)
    task = RunTask(0, 0, space.default_candidate(), 1e9)
    for process in processes:
        process.ask(LoadStatistics(statistics))
        built = process.ask(task)
        assert isinstance(built, Built), built
    found["built"] = pss_mb(processes)
    for process in processes:
        process.supervisor.send(EvaluateModel(0))
    while len(list(signs.glob("built-*"))) < len(processes):
        time.sleep(EVERY_S)
    found["session"] = pss_mb(processes)
    (signs / "go").touch()
    found["peak"] = 0.0
    busy = list(processes)
    while busy:
        found["peak"] = max(found["peak"], pss_mb(processes))
        busy = [process for process in busy if process.poll() is None]
        time.sleep(EVERY_S)
    return found


def measure(folder: Path, memory: str) -> None:
    job = job_from_dict(
        {
            "model": {"path": "model.onnx"},
            "calibration": {"loader": "eval.py:calibration", "samples": N_SAMPLES},
            "evaluation": {"function": "eval.py:evaluate"},
            "runtime": {"memory": memory},
        },
        folder,
    )
    model = onnx.load(folder / "model.onnx")
    size_mb = sum(4 * np.prod(t.dims) for t in model.graph.initializer if t.data_type == 1) / 2**20
    one, two = phases(job, folder, 1), phases(job, folder, 2)
    print(f'{folder.name}, {size_mb:.0f} MB of float weights, memory = "{memory}"')
    print(f"{'':10}{'one':>10}{'two':>10}{'second adds':>14}")
    for phase in one:
        added = two[phase] - one[phase] - (two["idle"] - one["idle"])
        share = 100 * added / size_mb
        print(f"{phase:10}{one[phase]:10.1f}{two[phase]:10.1f}{added:10.1f} MB{share:5.0f} %")


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="disttune-bench-") as name:
        folders = [Path(argument) for argument in sys.argv[1:]]
        if not folders:
            write_encoder(Path(name))
            folders = [Path(name)]
        for folder in folders:
            for memory in ("private", "shared"):
                measure(folder.resolve(), memory)


if __name__ == "__main__":
    main()
