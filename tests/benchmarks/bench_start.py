"""The fixed time of a search: the documentation's RTN search of four configs with an evaluation of no time.

    python -m tests.benchmarks.bench_start MODEL.onnx [--repeats 5] [--peer PYTHON]

Where the time goes, of the fastest repeat: from the call to the end of each phase. "processor" is all seconds
of all processes of the script, Python's start and imports included. The goal is met by the fourth config.
`--peer` is a Python that has onnx-neural-compressor 1.0, which runs the same search in turn with ours.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

EVALUATION = """
import sys, time
began = time.time()
calls = 0
def evaluate(model):
    global calls
    calls += 1
    return 1.0 if calls in (1, 5) else 0.1  # the float model, and the fourth config
"""
OURS = (
    EVALUATION
    + """
import disttune
from disttune import RTNConfig, TuningConfig, autotune
if __name__ == "__main__":
    config = TuningConfig(
        config_set=RTNConfig(weight_sym=[False, True], weight_group_size=[32, 128]),
        tolerable_loss=0.2, max_trials=10,
    )
    called = time.time()
    found = autotune(sys.argv[1], config, evaluate, run_directory=sys.argv[2], log_format="json")
    assert found.result.status == "goal_met" and len(found.result.trials) == 4
    print(f"\\nTIMES {called - began} {time.time() - called}", flush=True)
"""
)
PEERS = (
    EVALUATION
    + """
from onnx_neural_compressor.quantization import config, tuning
if __name__ == "__main__":
    settings = tuning.TuningConfig(
        config_set=config.RTNConfig(weight_sym=[False, True], weight_group_size=[32, 128]),
        tolerable_loss=0.2, max_trials=10,
    )
    called = time.time()
    found = tuning.autotune(sys.argv[1], settings, evaluate)
    assert found is not None and calls == 5
    print(f"\\nTIMES {called - began} {time.time() - called}", flush=True)
"""
)


@dataclass(frozen=True)
class Measured:
    """One run of a script.

    Args:
        import_s: before `autotune` is called.
        call_s: of the call.
        processor_s: of all processes.
        phases: what was told, with the seconds since the script's start.
    """

    import_s: float
    call_s: float
    processor_s: float
    phases: tuple[tuple[float, str], ...]


def measure(python: str, script: str, arguments: Sequence[str], folder: Path) -> Measured:
    file = folder / "script.py"
    file.write_text(script)
    before, began = _children_s(), time.time()
    process = subprocess.Popen(
        [python, str(file), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert process.stdout is not None
    phases, times = [], (0.0, 0.0)
    for line in process.stdout:
        if line.startswith("TIMES "):
            first, second = line.split()[1:]
            times = float(first), float(second)
        elif line.startswith("{"):
            phases.append((time.time() - began, _name(json.loads(line))))
    if process.wait() != 0:
        raise SystemExit(f"{python} {file} ended with code {process.returncode}")
    return Measured(*times, _children_s() - before, tuple(phases))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peer", help="Python with onnx-neural-compressor")
    options = parser.parse_args(arguments)
    model = str(options.model.absolute())
    ours, peers = [], []
    for number in range(options.repeats):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            ours.append(measure(sys.executable, OURS, [model, str(folder / f"run_{number}")], folder))
            if options.peer:
                peers.append(measure(options.peer, PEERS, [model], folder))
    best = min(ours, key=lambda m: m.call_s)
    print(f"where the {best.call_s:.2f} s of the fastest of {len(ours)} go:")
    for (at_s, name), (next_s, _) in zip(best.phases, (*best.phases[1:], (_end(best), "")), strict=True):
        print(f"  {at_s - best.import_s:6.2f} s  {next_s - at_s:6.2f} s  {name}")
    print(f"{'':10} {'import':>8} {'autotune':>9} {'fastest':>8} {'processor':>10}   (medians, s)")
    _row("disttune", ours)
    if peers:
        _row("peer", peers)
        for what, key in (("autotune", "call_s"), ("processor", "processor_s")):
            ratios = [getattr(p, key) / getattr(o, key) for o, p in zip(ours, peers, strict=True)]
            print(f"peer / disttune, {what}: {statistics.median(ratios):.1f} ({_spread(ratios)})")
        whole = [(p.import_s + p.call_s) / (o.import_s + o.call_s) for o, p in zip(ours, peers, strict=True)]
        print(f"peer / disttune, import and autotune: {statistics.median(whole):.1f} ({_spread(whole)})")


def _row(name: str, measured: Sequence[Measured]) -> None:
    middle = [statistics.median(getattr(m, k) for m in measured) for k in ("import_s", "call_s")]
    fastest = min(m.call_s for m in measured)
    processor = statistics.median(m.processor_s for m in measured)
    print(f"{name:10} {middle[0]:8.2f} {middle[1]:9.2f} {fastest:8.2f} {processor:10.2f}")


def _spread(ratios: Sequence[float]) -> str:
    return f"{min(ratios):.1f} to {max(ratios):.1f}"


def _end(measured: Measured) -> float:
    return max(measured.import_s + measured.call_s, measured.phases[-1][0])


def _name(event: dict[str, object]) -> str:
    number = event.get("trial")
    text = f"trial {number}" if number is not None else str(event.get("text") or event.get("name") or "")
    return f"{event.get('event', event.get('kind', ''))} {text}".strip()


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
