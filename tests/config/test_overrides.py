"""`--set section.key=value` lays values over a job, and is named when it is wrong."""

import pytest

from disttune.config.errors import JobFileError
from disttune.config.job_file import job_from_dict
from disttune.config.overrides import Override, parse_override
from tests.config.jobs import FOLDER, LEAST, least


def message_of(*settings: str, data=LEAST) -> str:
    with pytest.raises(JobFileError) as caught:
        job_from_dict(data, FOLDER, "job.toml", settings)
    return str(caught.value)


@pytest.mark.parametrize(("text", "path", "value"), [
    ("tuning.max_trials=50", ("tuning", "max_trials"), 50),
    (" tuning . max_trials = 50 ", ("tuning", "max_trials"), 50),
    ("tuning.timeout=1e3", ("tuning", "timeout"), 1000.0),
    ("tuning.strategy=random", ("tuning", "strategy"), "random"),
    ('tuning.strategy="random"', ("tuning", "strategy"), "random"),
    ("tuning.strategy=", ("tuning", "strategy"), ""),
    ("tuning.memory_limit=8 GiB", ("tuning", "memory_limit"), "8 GiB"),
    ("evaluation.function=eval.py:evaluate", ("evaluation", "function"), "eval.py:evaluate"),
    ("model.path=a=b.onnx", ("model", "path"), "a=b.onnx"),
    ("runtime.master_works=false", ("runtime", "master_works"), False),
    ("calibration.samples=[16, 32]", ("calibration", "samples"), [16, 32]),
    ("tuning.objective={latency = 1, size = 2}", ("tuning", "objective"), {"latency": 1, "size": 2}),
    ('quantization.op_names."conv.*=".weight.dtype=["int8"]',
     ("quantization", "op_names", "conv.*=", "weight", "dtype"), ["int8"]),
    (r"quantization.op_names.'a\.b'.fallback=float32", ("quantization", "op_names", r"a\.b", "fallback"),
     "float32"),
    ("tuning.strategy=a\nb = 1", ("tuning", "strategy"), "a\nb = 1"),
    ("tuning.seed=1\nx = 2", ("tuning", "seed"), "1\nx = 2"),
])  # fmt: skip
def test_setting_is_read_as_toml_and_bare_text_as_text(text, path, value):
    assert parse_override(text) == Override(text, path, value)


@pytest.mark.parametrize(("text", "reason"), [
    ("tuning.max_trials", "has no value; the form is --set tuning.max_trials=50"),
    ("", "has no value; the form is --set tuning.max_trials=50"),
    ("=3", "the key cannot be read; quote parts"),
    (".seed=3", "the key cannot be read; quote parts"),
    ("tuning..seed=3", "the key cannot be read; quote parts"),
    ("quantization.op_names.conv.*.fallback=float32", "the key cannot be read; quote parts"),
    ('tuning."\\q"=3', "the key cannot be read; quote parts"),
    ("calibration.samples=[16", "[16 is not a TOML value: Unclosed array"),
    ('tuning.strategy="random', '"random is not a TOML value: '),
])  # fmt: skip
def test_setting_that_cannot_be_read_is_told(text, reason):
    with pytest.raises(JobFileError) as caught:
        parse_override(text)
    assert str(caught.value).startswith(f"--set {text}: {reason}")


def test_setting_holds_over_the_file_and_a_later_one_over_an_earlier():
    job = job_from_dict(
        least(tuning={"seed": 1, "max_trials": 5}), FOLDER, overrides=["tuning.seed=2", "tuning.seed=3"]
    )
    assert (job.tuning.seed, job.tuning.max_trials) == (3, 5)


def test_setting_makes_the_tables_on_its_way():
    job = job_from_dict(
        LEAST, FOLDER, overrides=['quantization.op_names."conv.*".weight.dtype=["int8", "uint8"]']
    )
    weight = job.quantization.op_names["conv.*"].weight
    assert weight is not None
    assert weight.dtype == ("int8", "uint8")


def test_unknown_key_of_a_setting_names_the_setting_and_the_nearest_key():
    assert message_of("tuning.max_trial=50").startswith(
        '--set tuning.max_trial=50: no key "max_trial". Nearest: "max_trials". All: batch_size, '
    )
    assert message_of("tunning.seed=1").startswith(
        '--set tunning.seed=1: no section "tunning". Nearest: "tuning".'
    )
    assert message_of("seed=1") == '--set seed=1: no key "seed" here; it belongs into [tuning]'
    assert message_of("tuning.x.y=1").startswith('--set tuning.x.y=1: no key "x".')


def test_wrong_value_of_a_setting_names_the_setting():
    assert message_of("tuning.max_trials=0") == "--set tuning.max_trials=0: must be at least 1; 0 was given"
    assert message_of("runtime.master_works=False") == (
        '--set runtime.master_works=False: must be true or false; "False" was given'
    )
    assert message_of("calibration.samples=[1, 0]") == (
        "--set calibration.samples=[1, 0]: must be at least 1; 0 was given"
    )


def test_mistake_of_the_file_beside_a_good_setting_names_the_file():
    data = least(quantization={"op_types": {"Conv": {"fallback": "float3"}}})
    line = message_of("quantization.op_types.Conv.weight.dtype=int8", data=data)
    assert line.startswith("job.toml, [quantization] op_types.Conv.fallback: no float type")


def test_setting_below_something_that_is_no_table_is_told():
    assert (
        message_of("model.path.x=1") == '--set model.path.x=1: "model.path" is not a table; set it as a whole'
    )


def test_mistakes_of_settings_and_file_are_told_together():
    lines = message_of("tuning", "tuning.seed=-1", data=least(tuning={"max_trials": 0})).splitlines()
    assert lines == [
        "--set tuning: has no value; the form is --set tuning.max_trials=50",
        "job.toml, [tuning] max_trials: must be at least 1; 0 was given",
        "--set tuning.seed=-1: must be at least 0; -1 was given",
    ]
