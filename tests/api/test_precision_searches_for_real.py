"""amp, auto_mixed_precision and autoquant on real models, through everything but processes."""

import onnx
import pytest
from onnx import TensorProto

from disttune.space.precisions import precision_name
from tests.api.test_strategies_for_real import GUILTY, in_float, tune


def best_of(result):
    return next(t for t in result.trials if t.number == result.best.trial)


def stages(result):
    return list(dict.fromkeys(t.stage for t in result.trials))


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("amp")
    kwargs = {"candidates": ["W4A8", "W8A8", "W8"], "cost": "size"}
    return tune(folder, "amp", max_trials=40, strategy_kwargs=kwargs), folder / "run" / "best.onnx"


def test_mixed_precision_meets_the_goal_smaller_than_eight_bits_everywhere(mixed):
    result, path = mixed
    best = best_of(result)
    assert result.status == "goal_met"
    everywhere = [t for t in result.trials if t.stage == "one precision everywhere"]
    eight = [t for t in everywhere if precision_name(t.candidate.default) in ("W8A8", "W8")]
    assert best.size_bytes < min(t.size_bytes for t in eight)
    names = {precision_name(config) for config in best.candidate.configs().values()}
    assert names >= {"W4A8"}
    assert len(names) > 1
    types = {tensor.data_type for tensor in onnx.load(path).graph.initializer}
    assert {TensorProto.INT4, TensorProto.INT8} <= types


def test_no_trial_of_mixed_precision_failed(mixed):
    assert {t.status for t in mixed[0].trials} == {"ok"}


def test_what_has_one_scale_too_few_goes_back_to_float(tmp_path):
    result = tune(tmp_path, "auto_mixed_precision")
    assert result.status == "goal_met"
    assert in_float(result) == GUILTY
    assert [len(t.candidate.quantized_ops) for t in result.trials] == [7, 6, 5]


def test_autoquant_equalizes_what_has_one_scale_for_all_channels(tmp_path):
    result = tune(tmp_path, "autoquant", strategy_kwargs={"skip": ["scheme"]})
    assert result.status == "goal_met"
    assert stages(result) == ["default", "equalization"]
    assert dict(best_of(result).candidate.recipes) == {"cross_layer_equalization": True}
    assert best_of(result).metric > result.trials[0].metric + 0.4


def test_autoquant_rounds_where_nothing_else_may_be_done(tmp_path):
    steps = ["scheme", "equalization", "correction", "mixed_precision", "fallback"]
    kwargs = {"skip": steps, "rounding": ["adaround:iterations=50", "flip"]}
    result = tune(tmp_path, "autoquant", strategy_kwargs=kwargs)
    assert stages(result) == ["default", "rounding"]
    assert {t.status for t in result.trials} == {"ok"}
    assert best_of(result).metric > result.trials[0].metric
