import functools
import math
import sys
from pathlib import Path

import numpy as np
import pytest

from disttune.config.errors import InputError, InternalError, TrialError, UserCodeError
from disttune.config.evaluation_section import EvaluationSection
from disttune.config.goal import Objective
from disttune.evaluate.evaluators import (
    Evaluator,
    EvaluatorSpec,
    build_evaluators,
    evaluate,
    objectives,
    specs_from_functions,
    specs_from_section,
)
from disttune.evaluate.model import QuantizedModel
from tests.evaluate.small_models import X, linear, rows, write


@pytest.fixture(autouse=True)
def _unchanged_imports(monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))


def accuracy(model):
    return 0.5


def returns(value):
    return [Evaluator("accuracy", lambda model: value)]


def build(*items):
    return build_evaluators(specs_from_functions(list(items)), Path(), (), ())


def fails(evaluators, model=None):
    with pytest.raises(TrialError) as caught:
        evaluate(evaluators, model)
    return str(caught.value)


def test_each_evaluator_gets_the_model_and_gives_one_number(tmp_path):
    def mean_output(model):
        return model.run(None, {"x": np.ones((2, 4), np.float32)})[0].mean()

    with QuantizedModel(linear(3 * np.eye(4)), 1, directory=tmp_path) as model:
        assert evaluate(build(mean_output, accuracy), model) == (3.0, 0.5)


@pytest.mark.parametrize(
    "value", [1, 0.5, np.float32(0.5), np.float16(1), np.int64(3), np.array(0.25), np.array(2)]
)
def test_real_numbers_of_any_kind_are_taken(value):
    (result,) = evaluate(returns(value), None)
    assert type(result) is float
    assert result == float(value)


def test_a_scalar_tensor_of_another_library_is_taken():
    class Tensor:
        shape = ()

        def item(self):
            return 0.75

    assert evaluate(returns(Tensor()), None) == (0.75,)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, 'returned None; expected one finite number: is a "return" missing?'),
        (
            "0.5",
            "returned type str ('0.5'); expected one finite number: return the number itself, not its text",
        ),
        (math.nan, "returned nan; expected a finite number"),
        (np.float32("nan"), "returned nan"),
        (-math.inf, "returned -inf; expected a finite number"),
        (True, "returned True; expected one finite number: return the metric itself, not a comparison"),
        (np.True_, "not a comparison"),
        (np.array(True), "not a comparison"),
        (
            {"acc": 0.5},
            "returned type dict ({'acc': 0.5}); expected one finite number: return one of its values",
        ),
        ((0.5, 10), "returned type tuple ((0.5, 10)); expected one finite number: return one of its items"),
        (np.ones(3), "returned type ndarray of shape (3,); expected one finite number: reduce it"),
        (np.ones(1), "reduce it"),
        (1 + 2j, "expected one finite number: return a float"),
        (np.complex64(1), "expected one finite number: return a float"),
        (object, "expected one finite number: return a float"),
        ("x" * 1000, " ..."),
    ],
)
def test_anything_else_fails_the_trial_with_the_mend(value, expected):
    message = fails(returns(value))
    assert message.startswith('eval_fn "accuracy" returned ')
    assert expected in message
    assert len(message) < 250


def test_an_exception_fails_the_trial_and_names_the_users_line(tmp_path):
    write(
        tmp_path / "eval.py",
        "def evaluate(model):\n    part(model)\n\ndef part(model):\n    raise ValueError('bad')",
    )
    evaluators = build_evaluators([EvaluatorSpec(function="eval.py:evaluate")], tmp_path, (), ())
    with pytest.raises(TrialError) as caught:
        evaluate(evaluators, None)
    assert str(caught.value) == 'eval_fn "evaluate" raised ValueError: bad (eval.py, line 5)'
    assert isinstance(caught.value.__cause__, ValueError)


def test_an_exception_of_onnxruntime_names_the_users_line(tmp_path):
    write(tmp_path / "eval.py", "def evaluate(model):\n    return model.run(None, {'z': 1})")
    evaluators = build_evaluators([EvaluatorSpec(function="eval.py:evaluate")], tmp_path, (), ())
    with QuantizedModel(linear(), 1, directory=tmp_path) as model:
        message = fails(evaluators, model)
    assert message.startswith('eval_fn "evaluate" raised ValueError: Required inputs')
    assert message.endswith("(eval.py, line 2)")


@pytest.mark.parametrize(
    "leave", [sys.exit, functools.partial(sys.exit, "done"), functools.partial(sys.exit, 0)]
)
def test_leaving_the_interpreter_fails_the_trial(leave):
    assert 'eval_fn "accuracy" raised SystemExit' in fails([Evaluator("accuracy", lambda model: leave())])


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, RecursionError, AssertionError])
def test_whatever_the_users_code_raises_fails_the_trial(error):
    def evaluator(model):
        raise error

    assert f'eval_fn "accuracy" raised {error.__name__} (' in fails([Evaluator("accuracy", evaluator)])


def test_a_model_that_cannot_be_loaded_is_told_as_such(tmp_path):
    proto = linear()
    proto.graph.node[0].op_type = "NoSuchOp"
    with QuantizedModel(proto, 1, directory=tmp_path) as model:
        message = fails(build(lambda m: m.run(None, {"x": rows(1)})[0].sum()), model)
    assert message.startswith('eval_fn "eval_fn": onnxruntime cannot load the model')


def test_the_job_file_gives_functions_metrics_weights_and_names(tmp_path):
    write(tmp_path / "eval.py", "def evaluate(model): return 7")
    np.savez(tmp_path / "eval.npz", x=rows(8), labels=rows(8).argmax(1))
    section = EvaluationSection(
        evaluators=[
            {"function": str(tmp_path / "eval.py:evaluate"), "name": "seven", "higher_is_better": False},
            {"metric": "top1", "data": tmp_path / "eval.npz"},
        ]
    )
    evaluators = build_evaluators(specs_from_section(section), tmp_path, (X,), ("y",))
    with QuantizedModel(linear(), 1, directory=tmp_path) as model:
        assert evaluate(evaluators, model) == (7.0, 1.0)
    assert objectives(evaluators) == (Objective("seven", False), Objective("top1", True))


def test_a_job_file_with_one_function_or_metric_gives_one_evaluator(tmp_path):
    (spec,) = specs_from_section(EvaluationSection(function="eval.py:evaluate", higher_is_better=False))
    assert (spec.name, spec.higher_is_better, spec.weight) == ("evaluate", False, None)
    (spec,) = specs_from_section(EvaluationSection(metric="mse", data=tmp_path / "e.npz"))
    assert (spec.metric, spec.data, spec.higher_is_better) == ("mse", tmp_path / "e.npz", None)


def test_autotune_takes_a_function_a_dict_or_a_list_of_both():
    assert specs_from_functions(accuracy) == (EvaluatorSpec(function=accuracy),)
    entry = {"eval_fn": accuracy, "weight": 0.5, "name": "acc"}
    assert specs_from_functions(entry) == (EvaluatorSpec("acc", accuracy, weight=0.5),)
    assert len(specs_from_functions([accuracy, entry])) == 2


def test_names_come_from_the_functions_and_are_made_unique():
    class Scorer:
        def __call__(self, model):
            return 1

    evaluators = build(
        accuracy, accuracy, {"eval_fn": lambda m: 1, "name": "accuracy_2"}, lambda m: 2, Scorer(),
        functools.partial(accuracy),
    )  # fmt: skip
    assert [e.name for e in evaluators] == [
        "accuracy", "accuracy_2", "accuracy_2_2", "eval_fn", "Scorer", "accuracy_3",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("eval_fn", "expected"),
    [
        (3, "eval_fn is of type int, not a function"),
        ([], "eval_fn is an empty list"),
        ([accuracy, None], r"eval_fn\[1\] is of type NoneType, not a function"),
        ({"eval_fun": accuracy}, 'eval_fn: no key "eval_fun". Nearest: "eval_fn"'),
        ({"weight": 1.0}, 'eval_fn: the dict has no "eval_fn"'),
        ({"eval_fn": "eval.py:f"}, r'eval_fn\["eval_fn"\] is of type str'),
        ({"eval_fn": lambda: 1}, "must be callable with one argument, the model"),
        ({"eval_fn": accuracy, "weight": "1"}, r"""eval_fn\["weight"\] is '1'; expected a finite number"""),
        ({"eval_fn": accuracy, "weight": math.nan}, r'\["weight"\] is nan'),
        ({"eval_fn": accuracy, "name": 3}, r'\["name"\] is 3; expected text'),
        ({"eval_fn": accuracy, "higher_is_better": "yes"}, "is 'yes'; expected True or False"),
    ],
)
def test_a_wrong_eval_fn_is_told(eval_fn, expected):
    with pytest.raises(UserCodeError, match=expected):
        specs_from_functions(eval_fn)


def test_without_weights_each_evaluator_has_its_own_target():
    evaluators = build(accuracy, {"eval_fn": accuracy, "name": "loss", "higher_is_better": False})
    assert objectives(evaluators) == (Objective("accuracy"), Objective("loss", False))


def test_with_one_weight_the_others_get_one():
    evaluators = build(accuracy, {"eval_fn": accuracy, "name": "f1", "weight": 0.5})
    assert [o.weight for o in objectives(evaluators)] == [1.0, 0.5]


def test_a_weight_that_rewards_the_worse_is_refused():
    loss = {"eval_fn": accuracy, "name": "loss", "higher_is_better": False}
    with pytest.raises(InputError, match=r'weight 1 of "loss" \(lower is better\) rewards the worse: change'):
        objectives(build({"eval_fn": accuracy, "weight": 1.0}, {**loss, "weight": 1.0}))
    assert objectives(build({"eval_fn": accuracy, "weight": 1.0}, {**loss, "weight": -0.1}))[1].weight == -0.1


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (EvaluatorSpec(), "neither a function nor a metric"),
        (EvaluatorSpec(metric="top1"), 'metric "top1" needs an .npz file'),
        (EvaluatorSpec(metric="top1", function=accuracy), 'a function and metric "top1" are both given'),
        (
            EvaluatorSpec(metric="mse", data=Path("e"), higher_is_better=True),
            'of metric "mse" lower is better',
        ),
    ],
)
def test_a_spec_that_makes_no_sense_is_told(spec, expected, tmp_path):
    with pytest.raises(InputError, match=expected):
        build_evaluators([spec], tmp_path, (X,), ("y",))


def test_a_metric_without_its_reference_is_our_fault(tmp_path):
    np.savez(tmp_path / "eval.npz", x=rows(8))
    spec = EvaluatorSpec(metric="mse", data=tmp_path / "eval.npz")
    with pytest.raises(InternalError):
        evaluate(build_evaluators([spec], tmp_path, (X,), ("y",)), None)
