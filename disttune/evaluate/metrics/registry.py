"""Metrics by name: shipped ones and entry points.

Adding one is a new file in this package with a function `score(outputs, targets)` under
`@register_metric("name", higher_is_better=...)`; third parties name their module in the entry-point
group `disttune.metrics`.
"""

import importlib
import importlib.metadata
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from disttune.config.errors import InputError, UserCodeError
from disttune.config.nearest import unknown_name
from disttune.evaluate.samples import Reduction

Scores = NDArray[np.float64]
Target = Literal["labels", "next_tokens", "output"]
ScoreFunction = Callable[[Sequence[NDArray[Any]], NDArray[Any]], Scores]


@dataclass(frozen=True, slots=True)
class Metric:
    """A registered metric.

    Args:
        name: what users write in `evaluation.metric`.
        score: gives one number for each sample from the model's outputs and the targets.
        higher_is_better: direction.
        target: what it is held against: class numbers ("labels"); the tokens that come next
            ("next_tokens"), made from the tokens where the data have no target; or an output ("output"):
            then the float model's outputs stand in.
        reduce: the metric from the scores of all samples.
        best_score: that a sample can have; None where it is not known. There is one score for each target,
            and a better score never makes the metric worse.
        worst_score: that a sample can have; None where there is no limit.
    """

    name: str
    score: ScoreFunction
    higher_is_better: bool
    target: Target
    reduce: Reduction = "mean"
    best_score: float | None = None
    worst_score: float | None = None

    @property
    def is_mean_in_a_range(self) -> bool:
        """Whether it is the mean of scores with a best and a worst value, and higher is better."""
        has_range = self.best_score is not None and self.worst_score is not None
        return has_range and self.reduce == "mean" and self.higher_is_better


_REGISTERED: dict[str, Metric] = {}


def register_metric(
    name: str,
    *,
    higher_is_better: bool,
    target: Target = "labels",
    reduce: Reduction = "mean",
    best_score: float | None = None,
    worst_score: float | None = None,
) -> Callable[[ScoreFunction], ScoreFunction]:
    """Decorator: make a score function known by the name users give in `evaluation.metric`.

    Args:
        name: of the metric.
        higher_is_better: direction.
        target: "labels" needs them in the data; "output" can do with the float model's outputs.
        reduce: "mean" of the scores of all samples, "sum", or a function of them.
        best_score: that a sample can have; with it trials can be stopped early.
        worst_score: that a sample can have; with both they can be by a test, too.
    """

    def register(score: ScoreFunction) -> ScoreFunction:
        known = _REGISTERED.get(name)
        if known and known.score.__module__ != score.__module__:
            raise UserCodeError(
                f'metric "{name}" is registered by {known.score.__module__} and {score.__module__}'
            )
        _REGISTERED[name] = Metric(name, score, higher_is_better, target, reduce, best_score, worst_score)
        return score

    return register


def metric_names() -> list[str]:
    """Every name that `find_metric` knows, sorted."""
    _import_shipped()
    return sorted({*_REGISTERED, *(entry.name for entry in _entry_points())})


def bounded_metrics() -> list[str]:
    """Names of the metrics whose scores have a best value, sorted."""
    _import_shipped()
    return sorted(name for name, metric in _REGISTERED.items() if metric.best_score is not None)


def metrics_in_a_range() -> list[str]:
    """Names of the metrics that a test can bound, sorted."""
    return [name for name in bounded_metrics() if _REGISTERED[name].is_mean_in_a_range]


def find_metric(name: str) -> Metric:
    """The metric with this name.

    Raises:
        InputError: there is none (with the nearest name).
        UserCodeError: the entry point of that name does not register it.
    """
    _import_shipped()
    if name not in _REGISTERED:
        for entry in _entry_points():
            if entry.name == name:
                _load(entry)
    if name not in _REGISTERED:
        raise InputError("evaluation.metric: " + unknown_name("metric", name, metric_names()))
    return _REGISTERED[name]


def _load(entry: importlib.metadata.EntryPoint) -> None:
    where = f'entry point "{entry.name}" ({entry.value}) of disttune.metrics'
    try:
        entry.load()
    except Exception as error:
        raise UserCodeError(f"{where} cannot be imported: {type(error).__name__}: {error}") from error
    if entry.name not in _REGISTERED:
        raise UserCodeError(f'{where} has no function under @register_metric("{entry.name}", ...)')


def _import_shipped() -> None:
    package = importlib.import_module("disttune.evaluate.metrics")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")


def _entry_points() -> importlib.metadata.EntryPoints:
    return importlib.metadata.entry_points(group="disttune.metrics")
