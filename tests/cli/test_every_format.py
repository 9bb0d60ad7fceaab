"""For every type and format: `best.onnx` in stock onnxruntime gives the very metric of its trial."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import onnx
import onnxruntime
import pytest
from onnx import TensorProto

from disttune.cli import main
from disttune.config.schemes import OpConfig, Scheme
from tests.cli.jobs import write_job
from tests.models import tiny_cnn
from tests.quantize.engines import dynamic, static

EVALUATION = """
import numpy as np

X = np.random.default_rng(1).standard_normal((6, 3, 8, 8)).astype(np.float32)

def evaluate(model):
    return float(np.abs(model.run(None, {"x": X})[0]).sum(dtype=np.float64))

def calibration():
    for i in range(8):
        yield {"x": np.random.default_rng(i + 10).standard_normal((4, 3, 8, 8)).astype(np.float32)}
"""
STRATEGY = """
from disttune.config.schemes import OpConfig
from disttune.space.candidate import Candidate
from disttune.space.options import without_inert_parts
from disttune.strategy import Stage, register_strategy

@register_strategy("settled")
class Settled:
    def __init__(self, config, types=("Conv", "Gemm")):
        self.config, self.types = OpConfig.from_dict(config), tuple(types)

    def stages(self, tuning):
        weights = {op.name: op.weight for op in tuning.summary.ops}
        types = {op.name: op.op_type for op in tuning.summary.ops}
        float32 = OpConfig("float")
        yield Stage("settled", [Candidate.of({
            op: without_inert_parts(self.config, weights[op]) if types[op] in self.types else float32
            for op in tuning.space.ops
        }, tuning.space.recipes)])
"""


def weights(scheme: Scheme) -> OpConfig:
    return OpConfig("weight_only", scheme)


CONFIGS = {
    "uint8 activations, int8 weights": static(),
    "uint8 activations, uint8 weights per tensor": static("uint8", per_channel=False),
    "int8 activations": static("int8", "int8", symmetric=True),
    "uint16 activations": static("int8", "uint16"),
    "int16 activations and weights": static("int16", "int16", symmetric=True),
    "uint16 weights": static("uint16", "uint16"),
    "int4 weights": static("int4"),
    "uint4 weights": static("uint4"),
    "powers of two": OpConfig(
        "static", Scheme("int8", True, method="pow2_mse"), Scheme("int8", True, method="pow2_mse")
    ),
    "int8 alone": weights(Scheme("int8", True, "per_channel")),
    "uint8 alone": weights(Scheme("uint8", False)),
    "int16 alone": weights(Scheme("int16", True)),
    "int4 alone": weights(Scheme("int4", True, "per_channel")),
    "uint4 alone": weights(Scheme("uint4", False, "per_channel")),
    "float8e4m3fn alone": weights(Scheme("float8e4m3fn", True)),
    "float8e5m2 alone": weights(Scheme("float8e5m2", True)),
}
GEMM_ONLY = {
    "dynamic": dynamic(),
    "dynamic per channel": dynamic(per_channel=True),
    "groups of int4 alone": weights(Scheme("int4", True, "per_group", 16)),
    "groups of uint8 alone": weights(Scheme("uint8", False, "per_group", 16)),
    "gptq": weights(Scheme("int4", True, "per_channel", method="gptq")),
}
CASES = [(name, config, ["Conv", "Gemm"]) for name, config in CONFIGS.items()]
CASES += [(name, config, ["Gemm"]) for name, config in GEMM_ONLY.items()]


def run_job(folder: Path, config: OpConfig, types: list[str], *settings: str) -> dict[str, object]:
    """Tune with this config alone; the result."""
    job = write_job(folder)
    onnx.save(tiny_cnn(), folder / "model.onnx")
    (folder / "eval.py").write_text(EVALUATION)
    (folder / "strategy.py").write_text(STRATEGY)
    kwargs = json.dumps({"config": config.to_dict(), "types": types})
    text = job.read_text() + f'[tuning]\nstrategy = "{folder}/strategy.py:Settled"\n'
    job.write_text(text + f"[tuning.strategy_kwargs]\n{_toml(json.loads(kwargs))}")
    arguments = [
        "tune",
        str(job),
        "-o",
        str(folder / "run"),
        *(part for s in settings for part in ("--set", s)),
    ]
    assert main(arguments) in (0, 3)
    return json.loads((folder / "run" / "result.json").read_text())


def _toml(table: dict[str, object]) -> str:
    return "".join(f"{key} = {_value(value)}\n" for key, value in table.items())


def _value(value: object) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{k} = {_value(v)}" for k, v in value.items()) + " }"
    return json.dumps(value)


def metric_of(path: Path) -> float:
    """The job's evaluation of a file, in a plain session."""
    scope: dict[str, object] = {}
    exec(EVALUATION, scope)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return scope["evaluate"](session)  # type: ignore[operator]


@pytest.mark.parametrize(("config", "types"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_best_onnx_gives_the_metric_of_its_trial(tmp_path, config, types):
    result = run_job(tmp_path, config, types, "quantization.placement=all")
    best = result["best"]
    assert best is not None, (tmp_path / "run" / "trials.csv").read_text()
    assert metric_of(tmp_path / "run" / "best.onnx") == best["metric"]
    assert best["size_bytes"] == (tmp_path / "run" / "best.onnx").stat().st_size
    codes = {
        TensorProto.DataType.Name(t.data_type).lower()
        for t in onnx.load(tmp_path / "run/best.onnx").graph.initializer
    }
    assert codes & {config.weight.dtype, "uint8"}


def test_reduced_ranges_and_float_biases_do_too(tmp_path):
    settings = ("quantization.reduce_range=true", "quantization.recipes.quantize_bias=false")
    result = run_job(tmp_path, replace(static(), weight=Scheme("int8", True)), ["Conv", "Gemm"], *settings)
    assert metric_of(tmp_path / "run" / "best.onnx") == result["best"]["metric"]


def test_ops_held_to_float16_do_too(tmp_path):
    result = run_job(tmp_path, static(), ["Conv"], 'quantization.op_types.Gemm.weight.dtype="float16"')
    path = tmp_path / "run" / "best.onnx"
    assert metric_of(path) == result["best"]["metric"]
    assert result["best"]["size_bytes"] == path.stat().st_size
    types = {t.name: t.data_type for t in onnx.load(path).graph.initializer}
    assert types["w3_float16"] == TensorProto.FLOAT16


def test_ops_that_a_strategy_puts_back_to_float16_do_too(tmp_path):
    job = write_job(tmp_path)
    onnx.save(tiny_cnn(), tmp_path / "model.onnx")
    (tmp_path / "eval.py").write_text(EVALUATION.replace("float(np.abs", "-float(np.abs"))
    unreachable = ("accuracy.tolerable_loss=-0.5", 'tuning.strategy="mse_v2"', "tuning.max_trials=6")
    options = (*unreachable, 'quantization.op_types.Conv.fallback="float16"')
    arguments = [part for s in options for part in ("--set", s)]
    assert main(["tune", str(job), "-o", str(tmp_path / "run"), *arguments]) == 3

    rows = list(csv.DictReader((tmp_path / "run" / "trials.csv").open()))
    assert [row["stage"] for row in rows[-2:]] == ["1 op in float16", "2 ops in float16"]
    best = json.loads((tmp_path / "run" / "result.json").read_text())["best"]
    assert best["trial"] == int(rows[-1]["trial"])
    types = [t.data_type for t in onnx.load(tmp_path / "run" / "best.onnx").graph.initializer]
    assert types.count(TensorProto.FLOAT16) == 4
    assert -metric_of(tmp_path / "run" / "best.onnx") == best["metric"]


def test_accuracy_level_of_a_job_reaches_the_exported_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    write_job(tmp_path)
    options = ['quantization.approach="weight_only"', "quantization.accuracy_level=4", "tuning.max_trials=1"]

    code = main(["tune", "job.toml", "-o", "run", *(part for o in options for part in ("--set", o))])

    assert code in (0, 3)
    nodes = [n for n in onnx.load(tmp_path / "run" / "best.onnx").graph.node if n.op_type == "MatMulNBits"]
    levels = {a.i for n in nodes for a in n.attribute if a.name == "accuracy_level"}
    assert levels == {4}
