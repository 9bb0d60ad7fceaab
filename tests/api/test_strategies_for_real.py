"""Strategies on a real model, through everything but processes: probes, presets, composition, resume."""

from pathlib import Path

import pytest

import disttune
from disttune.config.job_file import job_from_dict

EXAMPLES = Path(disttune.__file__).parent / "examples"
PER_TENSOR = {
    "Conv": {"weight": {"granularity": "per_tensor"}, "activation": {"method": "minmax"}},
    "Gemm": {"activation": {"method": "minmax"}},  # few options: all trials left are for the fallback
}


def tune(tmp_path, strategy, max_trials=20, fresh=True, samples=64, **tuning):
    data = {
        "model": {"path": "model.onnx"},
        "calibration": {"data": "calibration.npz", "samples": samples},
        "evaluation": {"metric": "top1", "data": "evaluation.npz"},
        "tuning": {"strategy": strategy, "max_trials": max_trials, **tuning},
        "quantization": {"op_types": PER_TENSOR},
        "runtime": {"isolation": "none"},
    }
    job = job_from_dict(data, EXAMPLES / "digits_cnn")
    return disttune.autotune(
        None, job, run_directory=tmp_path / "run", fresh=fresh, log_format="quiet"
    ).result


# The job leaves one scale per weight tensor; two depth-wise convolutions cannot do with that.
GUILTY = {"block2_depthwise_conv", "block3_depthwise_conv"}


def in_float(result):
    best = next(t.candidate for t in result.trials if t.number == result.best.trial)
    return set(best.ops) - set(best.quantized_ops)


@pytest.mark.parametrize("strategy", ["basic", "mse", "mse_v2", "hawq_v2"])
def test_fallback_finds_the_guilty_ops(tmp_path, strategy):
    result = tune(tmp_path, strategy)
    assert result.status == "goal_met"
    assert in_float(result) >= GUILTY
    assert result.n_probes == 0 or strategy != "basic"


def test_errors_of_single_ops_find_nothing_but_them(tmp_path):
    result = tune(tmp_path, "mse", strategy_kwargs={"isolated": True})
    assert in_float(result) == GUILTY
    assert (result.status, result.n_trials) == ("goal_met", 5)


@pytest.mark.parametrize("strategy", ["mse_v2", "hawq_v2"])
def test_probes_that_see_the_whole_model_find_nothing_but_them(tmp_path, strategy):
    result = tune(tmp_path, strategy)
    assert in_float(result) == GUILTY
    assert result.n_probes > 0


def test_latencies_are_not_measured_again_when_a_job_goes_on(tmp_path):
    first = tune(tmp_path, "mse_v2", objective="latency", max_trials=6)
    again = tune(tmp_path, "mse_v2", objective="latency", max_trials=9, fresh=False)

    def latencies(result):
        return {t.number: t.latency for t in result.trials if t.meets_goal and t.number < 6}

    assert latencies(first).keys()
    assert all(latency.ratio > 0 for latency in latencies(first).values())
    assert latencies(again) == latencies(first)
    assert first.best.latency == min(latencies(first).values(), key=lambda latency: latency.ratio)


def test_probes_are_not_run_again_when_a_job_goes_on(tmp_path):
    cut = tune(tmp_path, "hawq_v2", max_trials=1)
    whole = tune(tmp_path, "hawq_v2", max_trials=2, fresh=False)
    again = tune(tmp_path, "hawq_v2", max_trials=20, fresh=False)
    assert (cut.n_trials, whole.n_trials) == (1, 2)
    assert again.status == "goal_met"
    undisturbed = tune(tmp_path / "other", "hawq_v2")
    assert [t.candidate for t in again.trials] == [t.candidate for t in undisturbed.trials]


def test_auto_is_the_default_and_ends_with_most_of_the_computing_quantized(tmp_path):
    least = {"model": {"path": "m.onnx"}, "quantization": {"approach": "dynamic"}}
    job = job_from_dict({**least, "evaluation": {"function": "e.py:f"}}, tmp_path)
    assert job.tuning.strategy == "auto"
    result = tune(tmp_path, "auto", max_trials=40)
    assert result.status == "goal_met"
    stages = list(dict.fromkeys(t.stage for t in result.trials))
    assert stages[:3] == ["default", "presets", "Conv quantized"]
    assert len(in_float(result)) < 4


def test_each_calibration_size_makes_models_of_its_own(tmp_path):
    result = tune(tmp_path, "basic", max_trials=60, samples=[4, 64], stop_at="budget")
    first = [t for t in result.trials if not t.stage.endswith(", 64 samples")]
    second = [t for t in result.trials if t.stage.endswith(", 64 samples")]
    assert first[0].candidate.configs() == second[0].candidate.configs()
    assert first[0].model_digest != second[0].model_digest
    assert result.warnings == ()
    alone = tune(tmp_path / "other", "default", samples=64)
    assert alone.trials[0].model_digest == second[0].model_digest


def test_a_strategy_that_takes_one_size_says_so(tmp_path):
    result = tune(tmp_path, "default", samples=[4, 64])
    assert result.warnings == ("calibration.samples: strategy default takes the first size, 4",)
    alone = tune(tmp_path / "other", "default", samples=4)
    assert alone.trials[0].model_digest == result.trials[0].model_digest
