"""The same job on any number of ranks: same trial table, same best, same bytes of the exported model."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from disttune.runtime.records import ResultRecord
from tests.distributed.jobs import make_job, records, table
from tests.distributed.launch import Ended, disttune, mpirun, run

# Evaluations that take different times, so that results arrive in another order than they are proposed.
UNEVEN = "time.sleep(0.002 * (7 * n % 16))"
SEARCH = {
    "search_space": {
        "calibrate_method": ["MinMax", "Percentile"], "include_sq": [False, True], "include_fast_ft": True,
        "extra_options": {"FastFinetune": {"NumIterLR": [[10, 0.01], [30, 0.2]]}},
    },
    "advanced_fastft_search": True,
    "advanced_fastft_params": {"n_trials": 5},
}  # fmt: skip
JOBS: dict[str, dict[str, Any]] = {
    "exhaustive, static or dynamic": {
        "ranks": (1, 2, 4), "quantization": 'approach = "auto"', "max_trials": 18, "tolerable_loss": 0.0084,
    },
    "random, to the first that meets the goal": {
        "ranks": (2, 3), "quantization": 'engine = "reference"',
        "strategy": "random", "seed": 2, "stop_at": "goal", "tolerable_loss": 0.0106,
    },
    "default": {"ranks": (2,), "strategy": "default", "tolerable_loss": 0.5},
    "weights alone, layers solved on all ranks": {
        "ranks": (2,), "quantization": 'approach = "weight_only"', "strategy": "random", "max_trials": 5,
        "tolerable_loss": 0.5,
    },
    "auto search, fine-tuning sampled": {
        "ranks": (2,), "strategy": "auto_search", "strategy_kwargs": SEARCH, "tolerable_loss": 0.5,
    },
}  # fmt: skip


@pytest.fixture(scope="module", params=JOBS, ids=list(JOBS))
def runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Run directories of one job: "local" without mpirun, and one for each number of ranks."""
    folder = tmp_path_factory.mktemp("job")
    options = dict(JOBS[request.param])
    ranks = options.pop("ranks")
    job = make_job(folder, UNEVEN, **options)
    codes = {"local": run(disttune("tune", job, "-o", folder / "local")).code}
    for n in ranks:
        codes[str(n)] = run(mpirun(n, "tune", job, "-o", folder / str(n))).code
    assert set(codes.values()) == {0}
    return {name: folder / name for name in codes}


def test_trial_table_is_the_same_on_any_number_of_ranks(runs: dict[str, Path]):
    expected = table(runs["local"])

    assert {name: table(path) for name, path in runs.items()} == dict.fromkeys(runs, expected)


def test_best_trial_and_the_bytes_of_its_model_are_the_same(runs: dict[str, Path]):
    def best(path: Path) -> tuple[object, bytes]:
        return json.loads((path / "result.json").read_text())["best"], (path / "best.onnx").read_bytes()

    assert len({repr(best(path)) for path in runs.values()}) == 1


def test_exported_model_gives_the_metric_of_its_trial_in_a_plain_session(runs: dict[str, Path]):
    data = np.load(runs["local"].parent / "data.npz")
    for path in runs.values():
        best = json.loads((path / "result.json").read_text())["best"]
        session = onnxruntime.InferenceSession(path / "best.onnx", providers=["CPUExecutionProvider"])

        outputs = session.run(None, {"x": data["x"]})[0]

        assert 1.0 - float(np.abs(outputs - data["y"]).mean()) == best["metric"]


def test_each_model_is_measured_once_by_a_rank_of_the_job(runs: dict[str, Path]):
    for name, path in runs.items():
        rows = table(path, without=())
        results = records(path, ResultRecord)

        assert len({r["model_digest"] for r in rows}) == sum(r["duplicate_of"] == "" for r in rows)
        assert {r.rank for r in results} <= set(range(1 if name == "local" else int(name)))


def test_exit_code_tells_goal_missed_and_wrong_input_under_mpirun(tmp_path: Path):
    job = make_job(tmp_path, max_trials=1)
    missed = run(mpirun(2, "tune", job, "-o", tmp_path / "run"))
    (tmp_path / "model.onnx").write_bytes(b"")
    wrong = run(mpirun(2, "tune", job, "-o", tmp_path / "other"))

    assert (missed.code, wrong.code) == (3, 2)
    assert "model.onnx" in message_of(wrong)
    assert "Traceback" not in missed.text + wrong.text


def message_of(ended: Ended) -> str:
    """What disttune itself says on standard error; mpirun adds a banner of its own."""
    return "".join(line for line in ended.stderr.splitlines() if line.startswith("disttune: "))
