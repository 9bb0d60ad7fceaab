"""A job that is written and read back is the same job."""

import json
import pickle
import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from disttune.config.job_file import dump_job, job_from_dict, load_job
from disttune.config.toml_text import toml_text
from tests.config.jobs import FOLDER, FULL_TOML, LEAST, random_jobs


@given(data=random_jobs)
@settings(max_examples=200, deadline=None)
def test_job_read_back_from_its_own_text_is_equal(data, tmp_path_factory):
    job = job_from_dict(data, FOLDER)
    resolved = tmp_path_factory.mktemp("run") / "job.toml"
    resolved.write_text(dump_job(job), encoding="utf-8")
    again = load_job(resolved)
    assert again == job
    assert again.fingerprint() == job.fingerprint()


@given(data=random_jobs)
@settings(max_examples=50, deadline=None)
def test_fingerprint_is_unchanged_by_json_and_job_by_pickle(data):
    job = job_from_dict(data, FOLDER)
    assert json.loads(json.dumps(job.fingerprint())) == job.fingerprint()
    assert pickle.loads(pickle.dumps(job)) == job


def test_full_job_file_is_read_into_typed_values(tmp_path):
    (tmp_path / "job.toml").write_text(FULL_TOML)
    job = load_job(tmp_path / "job.toml")
    conv = job.quantization.op_types["Conv"]
    assert conv.weight is not None
    assert conv.weight.dtype == ("int8",)
    assert conv.weight.granularity == ("per_tensor", "per_channel")
    assert conv.approach == ("static",)
    assert [e.name for e in job.evaluation.entries] == ["evaluate", "accuracy"]
    assert [e.higher_is_better for e in job.evaluation.entries] == [True, None]
    assert job.evaluation.entries[0].function == f"{tmp_path}/code/eval.py:evaluate"
    assert job.calibration.data == tmp_path / "calib.npz"
    assert job.calibration.samples == (64, 128)
    assert job.tuning.strategy == f"{tmp_path}/mine.py:Fallback"
    assert job.tuning.memory_limit == 8 * 2**30
    assert job.quantization.recipes == {
        "first_conv_or_matmul_quantization": (True, False), "dedicated_qdq_pair": (True,),
    }  # fmt: skip
    assert list(job.quantization.op_names) == [r"layers\.0\..*"]


def test_full_job_file_is_equal_after_being_written(tmp_path):
    (tmp_path / "job.toml").write_text(FULL_TOML)
    job = load_job(tmp_path / "job.toml")
    run = tmp_path / "run"
    run.mkdir()
    (run / "job.toml").write_text(dump_job(job))
    assert load_job(run / "job.toml") == job


def test_resolved_text_shows_defaults_and_absolute_paths():
    text = dump_job(job_from_dict(LEAST, FOLDER))
    data = tomllib.loads(text)
    assert data["model"]["path"] == "/jobs/digits/model.onnx"
    assert data["tuning"]["max_trials"] == 100
    assert "stop_at" not in data["tuning"]


def test_fingerprint_leaves_out_budgets_and_runtime_and_does_not_depend_on_the_folder():
    first = job_from_dict(LEAST, FOLDER)
    moved = job_from_dict(
        {**LEAST, "tuning": {"max_trials": 7, "timeout": 5, "patience": 3}, "runtime": {"memory": "shared"}},
        Path("/elsewhere"),
    )
    assert first.fingerprint() == moved.fingerprint()
    assert first.fingerprint()["model.path"] == "model.onnx"
    assert first.fingerprint()["evaluation.function"] == "eval.py:evaluate"


@pytest.mark.parametrize("change", [
    {"tuning": {"seed": 1}}, {"accuracy": {"tolerable_loss": 0.02}}, {"tuning": {"strategy": "random"}},
    {"quantization": {"op_types": {"Conv": {"fallback": "float16"}}}}, {"model": {"path": "other.onnx"}},
])  # fmt: skip
def test_fingerprint_tells_a_changed_key(change):
    before = job_from_dict(LEAST, FOLDER).fingerprint()
    after = job_from_dict({**LEAST, **change}, FOLDER).fingerprint()
    ((section, keys),) = change.items()
    assert [k for k in before if before[k] != after[k]] == [f"{section}.{k}" for k in keys]


_plain_values = st.recursive(
    st.one_of(st.booleans(), st.integers(), st.floats(allow_nan=False), st.text()),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=15,
)


@given(data=st.dictionaries(st.text(), _plain_values))
@settings(max_examples=100, deadline=None)
def test_any_plain_table_written_as_toml_is_read_back_by_tomllib(data):
    again = tomllib.loads(toml_text(data))
    assert again == data
    assert json.dumps(again, sort_keys=True) == json.dumps(
        data, sort_keys=True
    )  # 1 is not 1.0, true is not 1
