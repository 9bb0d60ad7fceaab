"""`autotune` in a user's script: on one process, and on every rank of mpirun with the same result."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.api.jobs import save_model
from tests.distributed.launch import find_mpirun, run

ROOT = Path(__file__).parents[2]
MEASURES = """
import numpy as np

SCALE = 2.0
X = np.random.default_rng(0).standard_normal((8, 3, 8, 8)).astype(np.float32)

def mean_of(model):
    return float(np.abs(model.run(None, {"x": X})[0]).mean())

def scaled(model):
    return SCALE * mean_of(model)
"""
HEAD = """
import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

import disttune
import measures
from disttune import StaticQuantConfig, TuningConfig
from disttune.config.errors import InputError
from onnxruntime.quantization import CalibrationDataReader

X = measures.X
CONFIG = TuningConfig(
    StaticQuantConfig(per_channel=[False, True], calibration_sampling_size=16), tolerable_loss=-0.99
)

class Reader(CalibrationDataReader):
    def __init__(self):
        self.feeds = iter([{"x": X}, {"x": -X}])

    def get_next(self):
        return next(self.feeds, None)

def evaluate(model):
    return float(np.abs(model.run(None, {"x": X})[0]).mean())

def twice(factor):
    def inner(model):
        return factor * evaluate(model)
    return inner

class Measure:
    def __init__(self, factor):
        self.factor = factor

    def __call__(self, model):
        return self.factor * evaluate(model)

def told(q):
    return {
        "metrics": [t.metric for t in q.result.trials],
        "proto": q.proto.SerializeToString(deterministic=True).hex(),
        "result": q.result.to_dict(),
        "trials": repr(q.result.trials),
    }
"""
ONE = """
FUNCTIONS = {
    "main": evaluate,
    "module": measures.scaled,
    "lambda": lambda model: 2.0 * evaluate(model),
    "closure": twice(2.0),
    "object": Measure(2.0),
}
several = [{"eval_fn": function, "name": name} for name, function in FUNCTIONS.items()]
q = disttune.autotune("model.onnx", CONFIG, several, Reader(), run_directory="run", log_format="quiet")
q.save("saved.onnx")
outputs = [
    m.run(None, {"x": X})[0].tolist()
    for m in (q, onnxruntime.InferenceSession(q), onnxruntime.InferenceSession("saved.onnx"))
]
facts = {"values": [t.values for t in q.result.trials], "same": outputs[0] == outputs[1] == outputs[2]}
Path("told.json").write_text(json.dumps(told(q) | facts))
"""
BUDGET = """
job = {
    "calibration": {"samples": 16},
    "tuning": {"strategy": "exhaustive", "stop_at": "budget", "max_trials": 1},
    "runtime": {"isolation": "none"},
}
q = disttune.autotune("model.onnx", job, measures.scaled, Reader(), run_directory="run")
"""
EVERY_RANK = """
from mpi4py import MPI

def only_float(model):
    if any(n.op_type == "QuantizeLinear" for n in model.proto.graph.node):
        raise ValueError("not this one")
    return 1.0

def error_of(**changes):
    arguments = {"model": "model.onnx", "tune_config": CONFIG, "eval_fn": evaluate,
                 "calibration_data_reader": Reader()}
    try:
        disttune.autotune(**{**arguments, **changes}, run_directory="run_wrong", log_format="quiet")
    except disttune.DisttuneError as error:
        return [type(error).__name__, error.exit_code, str(error)]

q = disttune.autotune("model.onnx", CONFIG, evaluate, Reader(), run_directory="run", log_format="quiet")
facts = told(q) | {
    "errors": [
        error_of(calibration_data_reader=3),
        error_of(eval_fn=only_float),
    ],
}
Path(f"rank-{MPI.COMM_WORLD.rank}.json").write_text(json.dumps(facts))
"""


SEVERAL = """
def tune(model, function):
    q = disttune.autotune(model, CONFIG, function, Reader(), log_format="quiet")
    return [q.result.best.metric, len(list(Path().glob("*/journal.jsonl")))]

first = tune("model.onnx", evaluate)
other = tune(onnx.load("model.onnx"), measures.scaled)
print(json.dumps([first, other, tune("model.onnx", evaluate)]))
"""


def write_script(folder: Path, body: str) -> Path:
    save_model(folder)
    (folder / "measures.py").write_text(MEASURES)
    script = folder / "tune_it.py"
    script.write_text(HEAD + body)
    return script


def run_script(script: Path) -> str:
    """Run it as a user does; what it printed."""
    ended = subprocess.run(
        [sys.executable, script.name],
        cwd=script.parent,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the script tells that runs without a launcher; "folder" is where it ran."""
    folder = tmp_path_factory.mktemp("script")
    script = write_script(folder, ONE)
    assert run_script(script) == ""
    return json.loads((folder / "told.json").read_text()) | {"folder": folder}


def test_functions_from_anywhere_in_the_script_measure_in_trial_processes(one: dict[str, Any]):
    assert one["result"]["evaluators"] == ["main", "module", "lambda", "closure", "object"]
    assert one["values"] == [[v[0], *[2.0 * v[0]] * 4] for v in one["values"]]
    assert len(one["values"]) == 2


def test_the_best_model_runs_as_a_session_a_path_and_a_saved_file(one: dict[str, Any]):
    assert one["same"] is True


def test_the_run_directory_holds_what_is_returned(one: dict[str, Any]):
    run_directory = one["folder"] / "run"

    assert json.loads((run_directory / "result.json").read_text()) == one["result"]
    assert {"best.onnx", "job.toml", "journal.jsonl", "trials.csv"} <= {
        p.name for p in run_directory.iterdir()
    }


def test_every_rank_gets_the_same_result_and_the_same_errors(tmp_path: Path):
    script = write_script(tmp_path, EVERY_RANK)

    ended = run([find_mpirun(), "-np", "2", sys.executable, script.name], cwd=tmp_path)

    assert ended.code == 0, ended.text
    told = [json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in range(2)]
    assert told[0] == told[1]
    assert len(told[0]["metrics"]) == 2
    assert told[0]["result"]["ranks"] == 2
    assert [(name, code) for name, code, _ in told[0]["errors"]] == [("DataError", 2), ("DisttuneError", 1)]
    assert [text.partition(":")[0] for _, _, text in told[0]["errors"]] == [
        "calibration_data_reader is of type int; it must be a reader with get_next(), an iterable of feeds "
        "{input",
        "no trial has a metric, so there is no best model",
    ]


def test_a_script_with_a_larger_budget_goes_on_and_one_that_measures_otherwise_is_refused(tmp_path: Path):
    script = write_script(tmp_path, BUDGET)
    assert "1 measured" in run_script(script)

    script.write_text(script.read_text().replace('"max_trials": 1', '"max_trials": 3'))
    told = run_script(script)
    assert "resumed: 1 trials are already measured" in told
    assert "3 measured" in told

    (tmp_path / "measures.py").write_text(MEASURES.replace("return float(", "return 0.5 * float("))
    with pytest.raises(AssertionError, match=r"code: the journal holds \w+, this job has \w+"):
        run_script(script)


def test_importing_disttune_loads_nothing_heavy():
    code = (
        "import sys, disttune; print(*sorted({'onnx', 'onnxruntime', 'numpy', 'mpi4py'} & set(sys.modules)))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)

    assert ended.stdout.strip() == ""


def test_searches_of_one_script_need_no_directories_named(tmp_path: Path):
    script = write_script(tmp_path, SEVERAL)
    first, other, again = json.loads(run_script(script).splitlines()[-1])
    assert first == [again[0], 1]
    assert other == [pytest.approx(2 * first[0]), 2]
    assert again[1] == 2
    assert {p.name for p in tmp_path.glob("disttune_run*")} == {"disttune_run", "disttune_run_2"}
