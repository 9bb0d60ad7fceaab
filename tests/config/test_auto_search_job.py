"""Auto Search's keys of the whole job, moved to tuning, evaluation and accuracy."""

import pytest

from disttune.config.errors import JobFileError
from disttune.config.job_file import dump_job, job_from_dict

STOP = {"find_n_candidates": 3, "find_best_candidate": 5, "iteration_limit": 20, "time_limit": 60}


def job(tmp_path, sections=None, overrides=(), **kwargs):
    data = {
        "model": {"path": "m.onnx"},
        "calibration": {"data": "c.npz"},
        "tuning": {"strategy": "auto_search", "strategy_kwargs": kwargs},
        **(sections or {}),
    }
    return job_from_dict(data, tmp_path, overrides=overrides, functions_given=True)


@pytest.mark.parametrize("nested", [True, False])
def test_stop_conditions_are_those_of_the_tuning_section(tmp_path, nested):
    tuning = job(tmp_path, **({"search_stop_condition": STOP} if nested else STOP)).tuning
    assert (tuning.find_n, tuning.patience, tuning.max_trials, tuning.timeout) == (3, 5, 20, 60)
    assert tuning.strategy_kwargs == {}


def test_a_limit_of_minus_one_is_none(tmp_path):
    tuning = job(tmp_path, search_stop_condition=dict.fromkeys(STOP, -1)).tuning
    assert (tuning.find_n, tuning.patience, tuning.timeout) == (None, None, 0)
    assert tuning.max_trials == 1_000_000_000


def test_a_metric_is_held_against_the_float_outputs_on_the_calibration_data(tmp_path):
    found = job(tmp_path, search_metric="cos", search_metric_tolerance=0.02)
    assert (found.evaluation.metric, found.evaluation.data) == ("cosine", tmp_path / "c.npz")
    assert (found.accuracy.criterion, found.accuracy.tolerable_loss) == ("absolute", 0.02)


def test_a_users_evaluator_is_the_evaluation_function(tmp_path):
    found = job(tmp_path, search_evaluator="eval.py:score")
    assert found.evaluation.function == f"{tmp_path}/eval.py:score"


def test_other_strategies_keep_their_keywords(tmp_path):
    sections = {"tuning": {"strategy": "mine.py:S", "strategy_kwargs": {"time_limit": 9}}}
    assert job(tmp_path, sections).tuning.strategy_kwargs == {"time_limit": 9}


def test_a_job_read_back_from_its_file_is_the_same(tmp_path):
    first = job(tmp_path, search_metric="L2", search_stop_condition=STOP, search_space={"include_cle": True})
    (tmp_path / "again.toml").write_text(dump_job(first))
    from disttune.config.job_file import load_job

    assert load_job(tmp_path / "again.toml") == first


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"n_jobs": 4}, "n_jobs: leave it out, the number of ranks decides"),
        ({"search_cache_dir": "x"}, "search_cache_dir: leave it out, statistics and results are kept"),
        ({"search_metric": "L3"}, 'no search_metric "L3". Nearest: "L'),
        ({"search_stop_condition": {"find_n": 1}}, 'no key "find_n". Nearest: "find_n_candidates"'),
        ({"search_stop_condition": 3}, "must be a table; 3 was given"),
        ({"search_stop_condition": {"time_limit": "1 h"}}, "[tuning] timeout"),
    ],
)
def test_a_mistake_is_told_with_its_key(tmp_path, kwargs, message):
    with pytest.raises(JobFileError) as caught:
        job(tmp_path, **kwargs)
    assert message in str(caught.value)


def test_two_different_values_for_one_thing_are_a_mistake(tmp_path):
    with pytest.raises(JobFileError, match=r"iteration_limit = 20 is tuning\.max_trials, which is 7"):
        job(tmp_path, overrides=["tuning.max_trials=7"], iteration_limit=20)
