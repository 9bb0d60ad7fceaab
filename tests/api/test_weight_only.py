"""`autotune` over weight-only configs, as ONNX neural-compressor's documentation has it."""

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

import disttune
from disttune import AWQConfig, GPTQConfig, RTNConfig, StaticQuantConfig, TuningConfig
from disttune.config.errors import DisttuneError, InputError
from tests.api.jobs import tuned
from tests.models import Graph, value

X = np.random.default_rng(0).standard_normal((8, 64)).astype(np.float32)
RTN = RTNConfig(weight_sym=[False, True], weight_group_size=[32, 128])


def matrices() -> onnx.ModelProto:
    """first (MatMul) - relu - second (MatMul) - last (Gemm); x (N, 64) to y (N, 8)."""
    g = Graph(4)
    h = g.node("MatMul", "x", g.weight("w1", 64, 48, scale=0.2), name="first")
    h = g.node("Relu", h, name="relu")
    h = g.node("MatMul", h, g.weight("w2", 48, 32, scale=0.2), name="second")
    g.node("Gemm", h, g.weight("w3", 8, 32), g.weight("b", 8), name="last", output="y", transB=1)
    return g.model([value("x", ["N", 64])], [value("y", ["N", 8])])


@pytest.fixture
def expected() -> np.ndarray:
    session = onnxruntime.InferenceSession(matrices().SerializeToString())
    return np.asarray(session.run(None, {"x": X})[0])


@pytest.fixture
def closeness(expected: np.ndarray) -> Any:
    """Higher is better, 1 at the float model."""

    def eval_fn(model: Any) -> float:
        found = model.run(None, {"x": X})[0]
        return float(1 - np.abs(found - expected).mean() / np.abs(expected).mean())

    return eval_fn


def search(folder: Any, closeness: Any, configs: Any, **changes: Any) -> Any:
    tune_config = TuningConfig(config_set=configs, tolerable_loss=-0.5, max_trials=10)
    arguments = {"model": matrices(), "eval_fn": closeness, "calibration_data_reader": None}
    return tuned(folder, **{"tune_config": tune_config, **arguments, **changes})


def ops_of(proto: onnx.ModelProto) -> list[str]:
    return sorted(node.op_type for node in proto.graph.node)


def test_example_of_the_documentation_needs_no_data(tmp_path: Any, closeness: Any) -> None:
    config = TuningConfig(config_set=RTN, tolerable_loss=0.2, max_trials=10)
    q = search(tmp_path, closeness, RTN, tune_config=config)
    assert q.result.status == "goal_met"
    assert q.result.n_trials == 1  # the first meets the goal
    assert ops_of(q.proto) == ["Add", "MatMulNBits", "MatMulNBits", "MatMulNBits", "Relu"]
    assert q.result.best.metric == closeness(q)
    q.save(tmp_path / "int4.onnx")
    assert closeness(onnxruntime.InferenceSession(tmp_path / "int4.onnx")) == q.result.best.metric


def test_candidates_follow_the_documented_order(tmp_path: Any, closeness: Any) -> None:
    q = search(tmp_path, closeness, RTN)
    weights = [trial.candidate.config_of("first").weight for trial in q.result.trials]
    assert [(w.group_size, w.symmetric) for w in weights] == [
        (32, False), (128, False), (32, True), (128, True),
    ]  # fmt: skip
    assert q.result.status == "goal_not_met"
    metrics = [trial.metric for trial in q.result.trials]
    assert q.result.best.metric == max(metrics)


def test_named_five_run_and_gptq_beats_rtn(tmp_path: Any, closeness: Any) -> None:
    q = search(tmp_path, closeness, disttune.get_woq_tuning_config(), calibration_data_reader=[{"x": X}] * 4)
    rtn, gptq, without_last, *_ = q.result.trials
    assert [t.status for t in q.result.trials] == ["ok"] * 5
    assert gptq.metric > rtn.metric
    assert "second" not in without_last.candidate.quantized_ops
    assert "last" in without_last.candidate.quantized_ops


def test_local_configs_hold_for_their_ops(tmp_path: Any, closeness: Any) -> None:
    config = RTNConfig().set_local("first", RTNConfig(weight_dtype="fp32"))
    config.set_local("Gemm", RTNConfig(weight_bits=8))
    (trial,) = search(tmp_path, closeness, config).result.trials
    assert trial.candidate.quantized_ops == ("second", "last")
    assert trial.candidate.config_of("last").weight.dtype == "int8"


def test_composed_configs_share_the_ops(tmp_path: Any, closeness: Any) -> None:
    both = RTNConfig(white_list=["Gemm"]) + StaticQuantConfig(op_types_to_quantize=["MatMul"])
    (trial,) = search(tmp_path, closeness, both, calibration_data_reader=[{"x": X}]).result.trials
    approaches = [trial.candidate.config_of(op).approach for op in ("first", "second", "last")]
    assert (trial.status, approaches) == ("ok", ["static", "static", "weight_only"])


def test_weight_only_and_static_configs_are_tried_in_one_job(tmp_path: Any, closeness: Any) -> None:
    q = search(tmp_path, closeness, [RTNConfig(), StaticQuantConfig()], calibration_data_reader=[{"x": X}])
    assert [t.status for t in q.result.trials] == ["ok", "ok"]
    assert [t.candidate.config_of("first").approach for t in q.result.trials] == ["weight_only", "static"]


def test_a_candidate_that_fails_does_not_end_the_search(tmp_path: Any, closeness: Any) -> None:
    configs = [AWQConfig(), RTNConfig()]
    calls = []

    def fails_once(model: Any) -> float:
        calls.append(1)
        if len(calls) == 2:  # the first is the float model
            raise ValueError("out of luck")
        return float(closeness(model))

    sections = {
        "accuracy": {"tolerable_loss": -0.5},
        "tuning": {
            "strategy": "sequential",
            "strategy_kwargs": {"configs": [c.to_dict() for c in configs]},
        },
        "quantization": {"approach": "weight_only"},
        "runtime": {"isolation": "none"},
    }
    q = search(tmp_path, fails_once, RTN, tune_config=sections, calibration_data_reader=[{"x": X}])
    assert [t.status for t in q.result.trials] == ["failed", "ok"]
    assert q.result.best.trial == 1


def test_a_config_that_quantizes_no_node_never_meets_the_goal(tmp_path: Any, closeness: Any) -> None:
    configs = [RTNConfig(weight_dtype="fp32"), RTNConfig()]
    config = TuningConfig(config_set=configs, tolerable_loss=0.9, max_trials=10)
    q = search(tmp_path, closeness, RTN, tune_config=config)
    nothing, quantized = q.result.trials
    assert (nothing.meets_goal, quantized.meets_goal) == (False, True)
    assert q.result.best.trial == quantized.number


def test_gptq_without_data_is_told_before_anything_runs(tmp_path: Any, closeness: Any) -> None:
    with pytest.raises(InputError, match="calibration_data_reader is missing: gptq"):
        search(tmp_path, closeness, GPTQConfig())


def test_an_op_that_the_model_lacks_is_told(tmp_path: Any, closeness: Any) -> None:
    config = RTNConfig().set_local("secnd", RTNConfig(weight_bits=8))
    with pytest.raises(DisttuneError, match=r'local config: no op "secnd". Nearest: "second"'):
        search(tmp_path, closeness, config)
