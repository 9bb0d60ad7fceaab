"""Evaluators: what a job, or the caller of `autotune`, measures on each model.

Each gives one finite number. Whatever else the user's code does (None, text, NaN, a truth value, an
exception, `sys.exit`) fails the trial with a message; the search goes on.
"""

import functools
import math
import numbers
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from disttune.config.errors import DataError, InputError, InternalError, TrialError, UserCodeError
from disttune.config.evaluation_section import EvaluationSection
from disttune.config.goal import Objective
from disttune.config.nearest import unknown_name
from disttune.evaluate.data_file import DataFile, read_data_file
from disttune.evaluate.feed_checks import Array
from disttune.evaluate.metric_value import finite_number
from disttune.evaluate.metrics import Metric, find_metric
from disttune.evaluate.samples import Runnable, SampleEvaluator
from disttune.evaluate.token_windows import next_tokens, token_input
from disttune.evaluate.user_code import (
    check_callable,
    code_file,
    describe_exception,
    load_function,
    shown_path,
    source_file,
)
from disttune.quantize.summary import InputSpec

T = TypeVar("T")
EvalFunction = Callable[[Any], Any]
_USER_KEYS = ("eval_fn", "weight", "name", "higher_is_better")


@dataclass(frozen=True, slots=True)
class EvaluatorSpec:
    """One evaluator as the user asked for it: a function, or a metric with its data.

    Args:
        name: column of trials.csv; "" takes the function's or metric's name.
        function: a function, or "file.py:name".
        metric: name of a built-in metric; then there is no function.
        data: `.npz` or `.npy` file for the metric.
        weight: factor in the weighted sum; None: none was given.
        higher_is_better: direction; None takes the metric's own, True for a function.
    """

    name: str = ""
    function: EvalFunction | str | None = None
    metric: str | None = None
    data: Path | None = None
    weight: float | None = None
    higher_is_better: bool | None = None


@dataclass(frozen=True, slots=True)
class Evaluator:
    """An evaluator that is ready to be called.

    Args:
        name: unique among the evaluators of a job.
        function: takes a model, returns its metric.
        weight: None when none was given.
        higher_is_better: direction.
        code_file: file of the user's function, for messages; None for a metric.
        metric: the built-in metric, None for a function.
        inputs: of a metric that needs the float model's outputs: the feeds they are computed for.
        output_name: of a metric: the output that counts.
    """

    name: str
    function: EvalFunction
    weight: float | None = None
    higher_is_better: bool = True
    code_file: Path | None = None
    metric: Metric | None = None
    inputs: tuple[Mapping[str, Array], ...] = ()
    output_name: str = ""

    @property
    def label(self) -> str:
        """What messages call it."""
        return f'eval_fn "{self.name}"' if self.metric is None else f'metric "{self.name}"'

    @property
    def needs_reference(self) -> bool:
        """Whether the float model's outputs must be given before this evaluator can be called."""
        return bool(self.inputs)

    def reference_outputs(self, model: Runnable) -> list[Array]:
        """The outputs of the float model that `with_reference` takes: one array for each block."""
        return [np.asarray(model.run([self.output_name], feeds)[0]) for feeds in self.inputs]

    def with_reference(self, outputs: Sequence[Array]) -> "Evaluator":
        """The same evaluator, holding models against these outputs of the float model.

        Args:
            outputs: from `reference_outputs`, on this rank or another.
        """
        assert self.metric is not None
        blocks = list(zip(self.inputs, outputs, strict=True))
        score, reduce = self.metric.score, self.metric.reduce
        function = SampleEvaluator(blocks, score, reduce, output_names=[self.output_name])
        return replace(self, function=function, inputs=())


def specs_from_section(section: EvaluationSection) -> tuple[EvaluatorSpec, ...]:
    """What a job file asks for."""
    return tuple(
        EvaluatorSpec(e.name or "", e.function, e.metric, e.data, e.weight, e.higher_is_better)
        for e in section.entries
    )


def specs_from_functions(eval_fn: Any) -> tuple[EvaluatorSpec, ...]:
    """What `autotune` was handed.

    Args:
        eval_fn: a function; a dict {"eval_fn": function, "weight": 1.0, "name": "accuracy",
            "higher_is_better": True} of which only the first is needed; or a list of both.
    Raises:
        UserCodeError: anything else.
    """
    items = list(eval_fn) if isinstance(eval_fn, list | tuple) else [eval_fn]
    if not items:
        raise UserCodeError("eval_fn is an empty list; give at least one function")
    several = len(items) > 1
    return tuple(_spec(item, f"eval_fn[{i}]" if several else "eval_fn") for i, item in enumerate(items))


def build_evaluators(
    specs: Iterable[EvaluatorSpec],
    folder: Path,
    input_specs: Sequence[InputSpec],
    output_names: Sequence[str],
) -> tuple[Evaluator, ...]:
    """Load functions, metrics and data.

    Args:
        specs: at least one.
        folder: relative files are looked up here.
        input_specs: the model's inputs.
        output_names: the model's outputs.
    Returns:
        One for each spec, with unique names: the second "accuracy" becomes "accuracy_2".
    Raises:
        InputError: a file, function, metric or data that cannot be used.
    """
    names: set[str] = set()
    evaluators = []
    for spec in specs:
        build = _from_function if spec.metric is None else _from_metric
        evaluator = build(spec, folder, input_specs, output_names)
        name = _unique(spec.name or evaluator.name, names)
        names.add(name)
        evaluators.append(replace(evaluator, name=name))
    return tuple(evaluators)


def objectives(evaluators: Sequence[Evaluator]) -> tuple[Objective, ...]:
    """What the goal is made from: all with weights (1.0 where only others have one) or none.

    Raises:
        InputError: metrics of both directions have weights of one sign: the sum would reward the worse.
    """
    if all(e.weight is None for e in evaluators):
        return tuple(Objective(e.name, e.higher_is_better) for e in evaluators)
    weights = [1.0 if e.weight is None else e.weight for e in evaluators]
    first = evaluators[0]
    for evaluator, weight in zip(evaluators, weights, strict=True):
        if evaluator.higher_is_better != first.higher_is_better and weight * weights[0] > 0:
            raise InputError(
                f'evaluators: the weighted sum follows "{first.name}" ({_direction(first)}, weight '
                f'{weights[0]:g}); weight {weight:g} of "{evaluator.name}" ({_direction(evaluator)}) rewards '
                "the worse: change its sign, or leave out all weights to give each its own target"
            )
    return tuple(Objective(e.name, e.higher_is_better, w) for e, w in zip(evaluators, weights, strict=True))


def evaluate(evaluators: Sequence[Evaluator], model: Any) -> tuple[float, ...]:
    """Measure a model.

    Args:
        evaluators: in the order of the result.
        model: a `QuantizedModel`.
    Returns:
        One finite number for each evaluator.
    Raises:
        TrialError: an evaluator raised (SystemExit and KeyboardInterrupt from its code too), or returned
            anything but a finite real number.
    """
    return tuple(_measure(evaluator, model) for evaluator in evaluators)


def guarded(evaluator: Evaluator, call: Callable[[], T]) -> T:
    """What a call into an evaluator's code gives.

    Raises:
        TrialError: it raised anything, SystemExit and KeyboardInterrupt included.
    """
    try:
        return call()
    except TrialError as error:
        raise TrialError(f"{evaluator.label}: {error}") from error
    except (Exception, SystemExit, KeyboardInterrupt) as error:
        raise TrialError(
            f"{evaluator.label} raised {describe_exception(error, evaluator.code_file)}"
        ) from error


def _measure(evaluator: Evaluator, model: Any) -> float:
    if evaluator.needs_reference:
        raise InternalError(f'evaluator "{evaluator.name}" was called before it had the float outputs')
    return finite_number(guarded(evaluator, lambda: evaluator.function(model)), evaluator.label)


def _spec(item: Any, where: str) -> EvaluatorSpec:
    if not isinstance(item, Mapping):
        check_callable(item, 1, where)
        return EvaluatorSpec(function=item)
    for key in item:
        if key not in _USER_KEYS:
            raise UserCodeError(f"{where}: {unknown_name('key', str(key), _USER_KEYS)}")
    if "eval_fn" not in item:
        raise UserCodeError(f'{where}: the dict has no "eval_fn", the function to call with the model')
    check_callable(item["eval_fn"], 1, f'{where}["eval_fn"]')
    name = item.get("name", "")
    if not isinstance(name, str):
        raise UserCodeError(f'{where}["name"] is {name!r}; expected text')
    direction = item.get("higher_is_better")
    if direction is not None and not isinstance(direction, bool):
        raise UserCodeError(f'{where}["higher_is_better"] is {direction!r}; expected True or False')
    weight = _weight(item.get("weight"), where)
    return EvaluatorSpec(name, item["eval_fn"], weight=weight, higher_is_better=direction)


def _weight(weight: Any, where: str) -> float | None:
    if weight is None:
        return None
    if isinstance(weight, bool) or not isinstance(weight, numbers.Real) or not math.isfinite(weight):
        raise UserCodeError(f'{where}["weight"] is {weight!r}; expected a finite number')
    return float(weight)


def _from_function(
    spec: EvaluatorSpec, folder: Path, input_specs: Sequence[InputSpec], output_names: Sequence[str]
) -> Evaluator:
    del input_specs, output_names  # a function knows its model
    file: Path | None
    if isinstance(spec.function, str):
        function = load_function(spec.function, folder)
        file, name = code_file(spec.function, folder), spec.function.rpartition(":")[2]
    elif spec.function is not None:
        check_callable(spec.function, 1, "eval_fn")
        function, name = spec.function, _function_name(spec.function)
        file = source_file(function)
    else:
        raise InputError("evaluation: there is neither a function nor a metric; give one of them")
    return Evaluator(name, function, spec.weight, spec.higher_is_better is not False, file)


def _from_metric(
    spec: EvaluatorSpec, folder: Path, input_specs: Sequence[InputSpec], output_names: Sequence[str]
) -> Evaluator:
    metric = find_metric(spec.metric or "")
    if spec.function is not None:
        raise InputError(f'evaluation: a function and metric "{metric.name}" are both given; keep one')
    if spec.data is None:
        raise InputError(f'evaluation.data: metric "{metric.name}" needs an .npz file with its samples')
    if spec.higher_is_better is not None and spec.higher_is_better != metric.higher_is_better:
        direction = "higher" if metric.higher_is_better else "lower"
        raise InputError(
            f'evaluation.higher_is_better: of metric "{metric.name}" {direction} is better; leave the key out'
        )
    path = folder / spec.data
    where = f'evaluation.data = "{shown_path(path, folder)}"'
    data = read_data_file(path, input_specs, output_names, where)
    output_name = data.target_name if data.target_name in output_names else output_names[0]
    evaluator = Evaluator(
        metric.name, _unready, spec.weight, metric.higher_is_better, metric=metric, output_name=output_name
    )
    if data.targets is None:
        if metric.target == "labels":
            raise DataError(
                f'{where}: metric "{metric.name}" needs labels: add an array "labels", one for each sample'
            )
        if metric.target == "next_tokens":
            return replace(evaluator, function=_of_tokens(metric, data, input_specs, output_name, where))
        return replace(evaluator, inputs=data.feeds)
    if metric.target != "output":
        _check_labels(data, where)
    blocks = list(zip(data.feeds, data.targets, strict=True))
    function = SampleEvaluator(blocks, metric.score, metric.reduce, output_names=[output_name])
    return replace(evaluator, function=function)


def _of_tokens(
    metric: Metric, data: DataFile, input_specs: Sequence[InputSpec], output_name: str, where: str
) -> SampleEvaluator:
    """A metric of windows of tokens that are their own targets."""
    blocks = []
    for feed in data.feeds:
        tokens = token_input(feed, input_specs)
        if tokens is None:
            raise DataError(
                f'{where}: metric "{metric.name}" needs labels, or tokens as "input_ids" or the only integer '
                "input, shape (windows, positions)"
            )
        blocks.append((feed, next_tokens(feed[tokens])))
    return SampleEvaluator(blocks, metric.score, metric.reduce, output_names=[output_name])


def _check_labels(data: DataFile, where: str) -> None:
    labels = data.targets[0] if data.targets else None
    if labels is not None and labels.dtype.kind not in "iu":
        raise DataError(
            f'{where}, target "{data.target_name}": found type {labels.dtype.name}, expected class numbers '
            "of an integer type"
        )


def _unready(model: Any) -> float:
    raise InternalError(f"the float outputs are missing; cannot evaluate {model!r}")


def _function_name(function: Any) -> str:
    while isinstance(function, functools.partial):
        function = function.func
    name = getattr(function, "__name__", type(function).__name__)
    return name if name.isidentifier() else "eval_fn"


def _unique(name: str, taken: set[str]) -> str:
    candidates = [name, *(f"{name}_{n}" for n in range(2, len(taken) + 3))]
    return next(c for c in candidates if c not in taken)


def _direction(evaluator: Evaluator) -> str:
    return f"{'higher' if evaluator.higher_is_better else 'lower'} is better"
