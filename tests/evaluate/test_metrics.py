import importlib.metadata
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from disttune.config.errors import DataError, InputError, TrialError, UserCodeError
from disttune.evaluate.evaluators import EvaluatorSpec, build_evaluators, evaluate
from disttune.evaluate.metrics import find_metric, metric_names, register_metric
from disttune.evaluate.metrics import registry as registry_module
from disttune.evaluate.metrics.cosine import cosine
from disttune.evaluate.metrics.mse import mse
from disttune.evaluate.metrics.top1 import top1
from disttune.evaluate.model import QuantizedModel
from tests.evaluate.small_models import X, linear, rows

ROWS = rows(40)
LABELS = ROWS.argmax(1)


def metric(name, tmp_path, **arrays):
    np.savez(tmp_path / "eval.npz", **arrays)
    specs = [EvaluatorSpec(metric=name, data=tmp_path / "eval.npz")]
    return build_evaluators(specs, tmp_path, (X,), ("y",))[0]


def measure(evaluator, weight, tmp_path):
    with QuantizedModel(linear(weight), 1, directory=tmp_path) as model:
        return evaluate([evaluator], model)[0]


def test_shipped_metrics_are_found_by_name():
    assert {"cosine", "mse", "top1"} <= set(metric_names())
    assert [find_metric(n).higher_is_better for n in ("top1", "mse", "cosine")] == [True, False, True]
    assert [find_metric(n).higher_is_better for n in ("l1", "l2", "psnr", "ssim")] == [
        False,
        False,
        True,
        True,
    ]


def test_an_unknown_metric_is_told_with_the_nearest():
    with pytest.raises(
        InputError, match=r'evaluation.metric: no metric "top-1". Nearest: "top1". All: .*cosine'
    ):
        find_metric("top-1")


@pytest.mark.parametrize("name", ["top1", "mse", "cosine", "l1", "l2", "psnr", "ssim"])
def test_a_better_model_scores_better_in_the_metrics_direction(name, tmp_path):
    target = {"labels": LABELS} if name == "top1" else {"y": ROWS}
    evaluator = metric(name, tmp_path, x=ROWS, **target)
    better = measure(evaluator, np.eye(4) + 0.2 * rows(4), tmp_path)
    worse = measure(evaluator, np.eye(4) + 2.0 * rows(4), tmp_path)
    assert better != worse
    assert (better > worse) == evaluator.higher_is_better


def test_top1_is_the_share_of_hits(tmp_path):
    labels = LABELS.copy()
    labels[:10] = (labels[:10] + 1) % 4
    assert measure(metric("top1", tmp_path, x=ROWS, labels=labels), np.eye(4), tmp_path) == 0.75


def test_top1_takes_the_first_of_equal_logits_and_a_column_of_labels():
    assert top1([np.zeros((2, 3))], np.array([[0], [1]])).tolist() == [1, 0]


def test_top1_of_several_positions_is_their_mean():
    logits = np.zeros((1, 2, 4))
    logits[0, 1, :3] = 1  # classes 1, 1, 1, 0
    assert top1([logits], np.array([[1, 1, 0, 0]])).tolist() == [0.75]


def test_top1_of_a_nan_is_nan():
    assert np.isnan(top1([np.array([[0.0, np.nan]])], np.array([1])))[0]


@pytest.mark.parametrize(
    ("logits", "labels", "expected"),
    [
        (np.ones((2,)), np.array([0, 1]), r"needs logits of shape \(samples, classes, ...\)"),
        (np.ones((2, 1)), np.array([0, 1]), "needs logits of shape"),
        (
            np.ones((2, 3)),
            np.ones((2, 3), int),
            r"labels of shape \(2,\); found \(2, 3\); .* with .argmax\(1\)",
        ),
        (np.ones((2, 3)), np.array([0]), r"labels of shape \(2,\); found \(1,\)"),
    ],
)
def test_top1_tells_shapes_that_do_not_fit(logits, labels, expected):
    with pytest.raises(TrialError, match=expected):
        top1([logits], labels)


ARRAYS = hnp.arrays(np.float32, (3, 5), elements=st.floats(-1e6, 1e6, width=32))


@given(ARRAYS, ARRAYS)
def test_mse_and_cosine_agree_with_their_formulas(a, b):
    a64, b64 = a.astype(np.float64), b.astype(np.float64)
    assert np.allclose(mse([a], b), [np.mean((x - y) ** 2) for x, y in zip(a64, b64, strict=True)])
    for score, x, y in zip(cosine([a], b), a64, b64, strict=True):
        length = math.sqrt(math.fsum(x * x)) * math.sqrt(math.fsum(y * y))
        if length:
            assert score == pytest.approx(math.fsum(x * y) / length, abs=1e-9)


@given(ARRAYS)
def test_equal_outputs_have_error_zero_and_cosine_one_exactly(a):
    assert mse([a], a).tolist() == [0, 0, 0]
    assert cosine([a], a.copy()).tolist() == [1, 1, 1]


def test_cosine_with_one_zero_vector_is_zero():
    assert cosine([np.array([[0.0, 0.0], [1.0, 0.0]])], np.array([[1.0, 2.0], [0.0, 0.0]])).tolist() == [0, 0]


@pytest.mark.parametrize("score", [mse, cosine])
def test_targets_of_another_size_are_told(score):
    with pytest.raises(TrialError, match=r"target of the output's shape \(2, 3\); found \(2, 4\)"):
        score([np.ones((2, 3))], np.ones((2, 4)))


@pytest.mark.parametrize(("name", "baseline"), [("mse", 0.0), ("cosine", 1.0)])
def test_without_a_target_models_are_held_against_the_float_model(name, baseline, tmp_path):
    evaluator = metric(name, tmp_path, x=ROWS)
    assert evaluator.needs_reference
    with QuantizedModel(linear(3 * np.eye(4)), 1, directory=tmp_path) as model:
        outputs = evaluator.reference_outputs(model)
    evaluator = evaluator.with_reference(outputs)
    assert not evaluator.needs_reference
    assert measure(evaluator, 3 * np.eye(4), tmp_path) == baseline
    assert measure(evaluator, 3 * np.eye(4) + 0.1 * rows(4), tmp_path) != baseline


@pytest.mark.parametrize("target", ["labels", "label", "targets", "target", "y"])
def test_targets_may_have_any_usual_name(target, tmp_path):
    assert measure(metric("top1", tmp_path, x=ROWS, **{target: LABELS}), np.eye(4), tmp_path) == 1


def test_a_target_named_as_an_output_is_held_against_that_output(tmp_path):
    proto = linear(2 * np.eye(4))
    proto.graph.output.insert(0, proto.graph.output[0])
    proto.graph.output[0].name = "h"
    proto.graph.node[1].input[1] = "h"  # y = h + h
    np.savez(tmp_path / "eval.npz", x=ROWS, y=4 * ROWS)
    specs = [EvaluatorSpec(metric="mse", data=tmp_path / "eval.npz")]
    evaluators = build_evaluators(specs, tmp_path, (X,), ("h", "y"))
    with QuantizedModel(proto, 1, directory=tmp_path) as model:
        assert evaluate(evaluators, model) == (0.0,)


def test_missing_labels_are_told(tmp_path):
    with pytest.raises(
        DataError, match=r'evaluation.data = "eval.npz": metric "top1" needs labels: add an array'
    ):
        metric("top1", tmp_path, x=ROWS)


@pytest.mark.parametrize(
    ("arrays", "expected"),
    [
        (
            {"x": ROWS, "labels": LABELS.astype(np.float32)},
            'target "labels": found type float32, expected class num',
        ),
        ({"x": ROWS, "labels": LABELS[:-1]}, r'target "labels": found shape \(39,\), expected 40 rows'),
        ({"x": ROWS, "z": LABELS}, 'it is no input, output or target "z"'),
        ({"X": ROWS, "labels": LABELS}, 'no input, output or target "X"'),
        ({"labels": LABELS}, 'input "x" is missing'),
    ],
)
def test_data_that_do_not_fit_are_told(arrays, expected, tmp_path):
    with pytest.raises(DataError, match=expected):
        metric("top1", tmp_path, **arrays)


def test_one_name_cannot_be_registered_from_two_modules():
    def score(outputs, targets):
        return np.ones(1)

    with pytest.raises(UserCodeError, match=r'metric "top1" is registered by .*metrics.top1 and tests'):
        register_metric("top1", higher_is_better=True)(score)


def test_a_metric_of_an_entry_point_is_found(monkeypatch, tmp_path):
    (tmp_path / "my_metric_module.py").write_text(
        "from disttune.evaluate.metrics import register_metric\n"
        "@register_metric('always_half', higher_is_better=False)\n"
        "def always_half(outputs, targets): return outputs[0][:, 0] * 0 + 0.5\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry_module, "_REGISTERED", dict(registry_module._REGISTERED))
    good = importlib.metadata.EntryPoint("always_half", "my_metric_module", "disttune.metrics")
    bad = importlib.metadata.EntryPoint("gone", "no_such_metric_module", "disttune.metrics")
    empty = importlib.metadata.EntryPoint("hollow", "json", "disttune.metrics")
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [good, bad, empty])
    assert {"always_half", "gone", "top1"} <= set(metric_names())
    assert find_metric("always_half").higher_is_better is False
    with pytest.raises(UserCodeError, match=r'entry point "gone" .* cannot be imported: ModuleNotFoundError'):
        find_metric("gone")
    with pytest.raises(UserCodeError, match=r'entry point "hollow" \(json\) .* has no function under'):
        find_metric("hollow")
