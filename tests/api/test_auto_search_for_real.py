"""Auto Search on the digits CNN, through everything but processes."""

from pathlib import Path

import disttune
from disttune.config.job_file import job_from_dict

FOLDER = Path(disttune.__file__).parent / "examples" / "digits_cnn"
SPACE = {
    "calibrate_method": ["MinMax", "Entropy", "Percentile", "MinMSE"],
    "activation_type": ["int8", "uint8"],
    "weight_type": ["int8", "int16"],
    "include_cle": [False, True],
}
N_SAMPLES, N_BLOCKS = 32, 2


def tune(path, metric=None, **kwargs):
    data = {
        "model": {"path": "model.onnx"},
        "calibration": {"data": "calibration.npz", "samples": N_SAMPLES},
        "evaluation": metric or {},
        "tuning": {"strategy": "auto_search", "stop_at": "budget", "strategy_kwargs": kwargs},
        "quantization": {"op_types": {"Conv": {"weight": {"granularity": "per_tensor"}}}},
        "runtime": {"isolation": "none"},
    }
    return disttune.autotune(None, job_from_dict(data, FOLDER), run_directory=path, log_format="quiet").result


def test_32_combinations_need_one_calibration_for_each_graph_variant(tmp_path):
    result = tune(tmp_path, search_space=SPACE, search_metric="L2", search_metric_tolerance=1.0)

    assert result.n_trials == 32
    assert len({t.model_digest for t in result.trials}) == 32
    cache = [path.name for path in (tmp_path / "cache").iterdir()]
    assert sum(name.startswith("statistics-") for name in cache) == 1  # of the float graph
    assert sum(name.startswith("work-") for name in cache) == N_BLOCKS  # of the equalized one, by blocks
    int8 = [t for t in result.trials if t.candidate.default.weight.dtype == "int8"]
    equalized, plain = ([t.metric for t in int8 if bool(t.candidate.recipes) == on] for on in (True, False))
    assert max(equalized) < 0.01 * min(plain)  # one scale for each weight needs it

    log = (tmp_path / "auto_search.log").read_text()
    assert "auto search: 32 combinations, 32 of them distinct" in log
    assert sum(" trial " in line and "; " in line for line in log.splitlines()) == 32
    assert sum("auto search, the best: calibrate_method = " in line for line in log.splitlines()[-4:]) == 1


def test_two_stages_fine_tune_the_best_calibration_to_less_error(tmp_path):
    tuning = {"OptimAlgorithm": ["adaround", "adaquant"], "NumIterations": 20}
    space = {**SPACE, "activation_type": "uint8", "weight_type": "int8", "include_fast_ft": [False, True]}
    result = tune(
        tmp_path,
        search_space={**space, "extra_options": {"FastFinetune": tuning}},
        two_stage_search=True,
        search_metric="cos",
        search_metric_tolerance=1.0,
    )
    stages = {}
    for trial in result.trials:
        stages.setdefault(trial.stage, []).append(trial.metric)
    first, second = stages["auto search, calibration"], stages["auto search, fine-tuning"]
    assert (len(first), len(second)) == (8, 2)
    assert all(t.meets_goal for t in result.trials)
    assert result.best.metric == max(first + second) > max(first)  # not the first that meets the goal


def test_mixed_precision_wins_back_what_the_best_config_misses(tmp_path):
    result = tune(
        tmp_path,
        {"metric": "top1", "data": "evaluation.npz"},
        search_space={"calibrate_method": ["MinMax", "Percentile"], "include_auto_mp": [False, True]},
    )
    configs = [t for t in result.trials if t.stage == "auto search"]
    met = [t for t in result.trials if t.meets_goal]
    assert len(configs) == 2
    assert not any(t.meets_goal for t in configs)
    best = next(t for t in met if t.number == result.best.trial)
    assert best.number != met[0].number  # that one has nearly all in float
    assert len(best.candidate.quantized_ops) == len(best.candidate.ops)
    assert max(t.metric for t in configs) < 0.5 < best.metric
