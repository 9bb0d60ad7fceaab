"""What `autotune` takes: models, configs, readers and functions in every form; and what it refuses, how."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnxruntime.quantization import CalibrationDataReader

from disttune.config.algorithms.dynamic import DynamicQuantConfig
from disttune.config.algorithms.static import StaticQuantConfig
from disttune.config.errors import DisttuneError, InputError
from disttune.config.job_file import job_from_dict
from disttune.config.tuning_config import TuningConfig
from tests.api.jobs import HERE, TWO, X, evaluate, feeds, metrics, save_model, tuned

JOB_FILE = """
[model]
path = "model.onnx"
[calibration]
data = "calibration.npz"
samples = 16
[evaluation]
function = "measure.py:evaluate"
[accuracy]
tolerable_loss = -0.99
[tuning]
strategy = "sequential"
strategy_kwargs.configs = [{algorithm = "static", per_channel = [false, true]}]
[runtime]
isolation = "none"
"""
MEASURE = """
import numpy as np
X = np.random.default_rng(0).standard_normal((8, 3, 8, 8)).astype(np.float32)
def evaluate(model):
    return float(np.abs(model.run(None, {"x": X})[0]).mean())
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds the model, and a job file that needs nothing of a script."""
    path = tmp_path_factory.mktemp("job")
    save_model(path)
    np.savez(path / "calibration.npz", x=np.concatenate([X, -X]))
    (path / "measure.py").write_text(MEASURE)
    (path / "job.toml").write_text(JOB_FILE)
    return path


@pytest.fixture(scope="module")
def expected(folder: Path) -> list[float | None]:
    """Metrics of the two configs, in order."""
    return metrics(tuned(folder, run_directory=folder / "expected"))


@pytest.fixture
def here(folder: Path, tmp_path: Path):
    """`autotune` of a job whose trials run in this process, in a run directory of its own."""

    def call(**changes: Any):
        return tuned(folder, **{"tune_config": HERE, "run_directory": tmp_path / "run", **changes})

    return call


class Reader(CalibrationDataReader):
    """As users of onnxruntime write them."""

    def __init__(self) -> None:
        self.rest = iter(feeds())
        self.n_read = 0

    def get_next(self) -> dict[str, np.ndarray] | None:
        self.n_read += 1
        return next(self.rest, None)


# Forms


def test_lists_are_tried_in_order(expected):
    assert len(expected) == 2
    assert expected[0] != expected[1]


@pytest.mark.parametrize(
    "reader",
    [
        Reader(),
        Reader,
        feeds,
        feeds(),
        tuple(feeds()),
        (feed for feed in feeds()),
        lambda: (feed for feed in feeds()),
        lambda: Reader(),
        lambda: [(feed, np.zeros(8, np.int64)) for feed in feeds()],  # with targets
    ],
    ids=["reader", "reader class", "function", "list", "tuple", "generator", "function of a generator",
         "function of a reader", "feeds with targets"],
)  # fmt: skip
def test_calibration_data_comes_in_any_form(here, expected, reader):
    assert metrics(here(calibration_data_reader=reader)) == expected


def test_a_reader_is_read_no_further_than_needed(here):
    reader = Reader()
    config = {**HERE, "calibration": {"samples": 5}}  # the first feed has 8

    here(tune_config=config, calibration_data_reader=reader)

    assert reader.n_read == 1


def test_a_model_may_be_a_proto(here, folder, expected):
    model = onnx.load(folder / "model.onnx")
    before = model.SerializeToString()

    assert metrics(here(model=model)) == expected
    assert model.SerializeToString() == before


def test_a_job_file_says_everything(here, folder, expected):
    q = here(model=None, tune_config=folder / "job.toml", eval_fn=None, calibration_data_reader=None)

    assert metrics(q) == expected
    assert q.result.evaluators == ("evaluate",)


def test_what_is_given_takes_the_place_of_the_job_files(here, folder, tmp_path, expected):
    other = tmp_path / 'an "odd" name.onnx'
    other.write_bytes((folder / "model.onnx").read_bytes())

    q = here(
        model=other,
        tune_config=str(folder / "job.toml"),
        eval_fn={"eval_fn": lambda model: 2.0 * evaluate(model), "name": "double"},
    )

    assert metrics(q) == [2.0 * m for m in expected]
    assert q.result.evaluators == ("double",)


def test_a_job_file_needs_no_evaluation_where_a_function_is_given(here, folder, expected):
    job = folder / "bare.toml"
    job.write_text(JOB_FILE.replace('[evaluation]\nfunction = "measure.py:evaluate"\n', ""))

    assert metrics(here(model=None, tune_config=job, calibration_data_reader=None)) == expected


def test_a_job_may_be_an_object_and_the_model_another(here, folder, expected):
    data = {**HERE, "model": {"path": "no.onnx"}}
    job = job_from_dict(data, folder, functions_given=True)

    assert metrics(here(tune_config=job)) == expected


def test_a_mix_of_static_and_dynamic_configs_is_tried_in_order(here, expected):
    config = TuningConfig(
        [StaticQuantConfig(calibration_sampling_size=16), DynamicQuantConfig()], tolerable_loss=-0.99
    )
    q = here(tune_config=config)

    approaches = [
        {c.approach for c in t.candidate.configs().values() if c.quantized} for t in q.result.trials
    ]
    assert approaches == [{"static"}, {"dynamic"}]
    assert metrics(q)[0] == expected[0]


@pytest.mark.parametrize("sampler", ["random", "basic"])
def test_a_strategy_named_as_sampler_searches_what_the_configs_span(here, sampler):
    configs = StaticQuantConfig(per_channel=[False, True], calibrate_method=["MinMax", "Entropy"],
                                calibration_sampling_size=16)  # fmt: skip
    config = TuningConfig(configs, sampler=sampler, max_trials=6, tolerable_loss=-0.99)
    trials = here(tune_config=config).result.trials

    weights = {trial.candidate.config_of("conv1").weight for trial in trials} - {None}
    assert weights <= {c.op_config().weight for c in configs.expand()}
    assert len(trials) >= 3


def test_dynamic_quantization_needs_no_data(here):
    q = here(tune_config=TuningConfig(DynamicQuantConfig(), tolerable_loss=0.9), calibration_data_reader=None)

    assert (q.result.status, q.result.stop_reason) == ("goal_met", "goal")


def test_several_functions_have_names_weights_and_directions(here, expected):
    def half(model):
        return 0.5 * evaluate(model)

    weighted = here(
        eval_fn=[{"eval_fn": evaluate, "weight": 2.0}, {"eval_fn": half, "name": "h", "weight": 4.0}]
    )

    assert weighted.result.evaluators == ("evaluate", "h")
    assert [t.values for t in weighted.result.trials] == [(m, 0.5 * m) for m in expected]
    assert metrics(weighted) == pytest.approx([4.0 * m for m in expected], rel=1e-15)


# What comes back


def test_the_result_is_typed_and_complete(here):
    result = here().result

    assert result.status == "goal_not_met"
    assert result.exit_code == 3
    assert result.best is not None
    assert result.best.trial in (0, 1)
    assert result.to_dict()["trials"] == result.n_trials == 2
    assert [t.number for t in result.trials] == [0, 1]


def test_the_best_model_has_the_metric_of_its_trial(here):
    q = here()

    assert evaluate(q) == q.result.best.metric
    assert sum(n.op_type == "QuantizeLinear" for n in q.proto.graph.node) > 0


# Mistakes


def no_metric(model):
    if any(node.op_type == "QuantizeLinear" for node in model.proto.graph.node):
        raise ValueError("nothing quantized, please")
    return 1.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": 3}, "model is a int; expected a path or a ModelProto"),
        ({"model": None}, "tune_config, [model] path: is missing. The float model, an .onnx file."),
        ({"tune_config": 3}, "tune_config is a int; expected a TuningConfig, or a job: the path of its file"),
        ({"tune_config": StaticQuantConfig()}, "tune_config is a StaticQuantConfig; expected a TuningConfig"),
        ({"tune_config": "no.toml"}, "no.toml: no such file."),
        ({"tune_config": {**HERE, "tunning": {}}}, 'no section "tunning". Nearest: "tuning".'),
        ({"tune_config": {**HERE, "model": "m.onnx"}}, "tune_config, [model]: is a section"),
        ({"tune_config": {**HERE, "quantization": 8}}, "tune_config, [quantization]: is a section"),
        (
            {"tune_config": TuningConfig(StaticQuantConfig(), sampler="seqential")},
            'no strategy "seqential". Nearest: "sequential".',
        ),
        (
            {"tune_config": TuningConfig(StaticQuantConfig(calibration_sampling_size=[8, 16]))},
            "TuningConfig: calibration_sampling_size holds [8, 16]; give one size for all configs",
        ),
        ({"eval_fn": None}, "eval_fn is missing: autotune needs it to tell how good a model is"),
        ({"eval_fn": None, "tune_config": TWO}, "eval_fn is missing"),
        ({"eval_fn": 3}, "eval_fn is of type int, not a function"),
        ({"eval_fn": []}, "eval_fn is an empty list; give at least one function"),
        ({"eval_fn": {"fn": evaluate}}, 'eval_fn: no key "fn". Nearest: "eval_fn".'),
        ({"eval_fn": [evaluate, {"eval_fn": evaluate, "weight": "1"}]}, "eval_fn[1][\"weight\"] is '1'"),
        ({"eval_fn": lambda a, b: 1.0}, "eval_fn must be callable with one argument, the model"),
        ({"eval_fn": lambda model: None}, 'returned None; expected one finite number'),
        ({"eval_fn": lambda model: 1 / 0}, "raised ZeroDivisionError: division by zero (test_arguments.py"),
        ({"calibration_data_reader": None}, "calibration_data_reader is missing: static quantization"),
        ({"calibration_data_reader": None, "tune_config": TWO}, "calibration_data_reader is missing"),
        ({"calibration_data_reader": 3}, "calibration_data_reader is of type int; it must be a reader"),
        ({"calibration_data_reader": {"x": X}}, "calibration_data_reader is of type dict; it must be"),
        ({"calibration_data_reader": "c.npz"}, "calibration_data_reader is of type str; it must be"),
        ({"calibration_data_reader": lambda: None}, "calibration_data_reader returned type NoneType"),
        ({"calibration_data_reader": lambda: 1 / 0}, "calibration_data_reader raised ZeroDivisionError"),
        ({"calibration_data_reader": []}, "it gave no feed; at least one is needed"),
        ({"calibration_data_reader": [{"X": X}]}, 'feed 0: the model has no input "X". All: x.'),
        ({"calibration_data_reader": [{"x": X[:, :2]}]}, "found shape (8, 2, 8, 8), expected (N, 3, 8, 8)"),
        ({"run_directory": 3}, "run_directory is a int; expected a path"),
        ({"log_format": "xml"}, "log_format is 'xml'; expected one of plain, json, quiet"),
    ],
)  # fmt: skip
def test_a_wrong_argument_is_one_clear_error(here, changes, message):
    with pytest.raises(InputError) as caught:
        here(**changes)
    assert message in str(caught.value)
    assert "Traceback" not in str(caught.value)


@pytest.mark.parametrize("as_proto", [False, True])
def test_a_run_directory_that_is_a_file_is_refused(here, folder, as_proto):
    model = folder / "model.onnx"

    with pytest.raises(InputError, match=r"model\.onnx"):
        here(model=onnx.load(model) if as_proto else model, run_directory=model)


def test_when_no_trial_has_a_metric_the_reason_is_told(here):
    with pytest.raises(DisttuneError) as caught:
        here(eval_fn=no_metric)
    assert not isinstance(caught.value, InputError)
    assert str(caught.value).startswith(
        'no trial has a metric, so there is no best model: eval_fn "no_metric" raised ValueError: nothing '
        "quantized, please (test_arguments.py, line "
    )
