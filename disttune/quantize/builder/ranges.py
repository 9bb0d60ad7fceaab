"""Scale and zero point of activations: from their statistics by their scheme, each computed once."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from disttune.config.errors import TrialError
from disttune.config.schemes import Scheme
from disttune.quantize.parameters import parameters
from disttune.quantize.statistics.statistics import Statistics
from disttune.quantize.statistics.tensor_statistics import TensorStatistics
from disttune.quantize.thresholds.registry import activation_range


class Ranges:
    """Clip ranges and parameters of one model's activations.

    Args:
        collect: gives statistics of at least these tensors, as far as it can.
    """

    def __init__(self, collect: Callable[[Sequence[str]], Statistics]):
        self._collect: Callable[[Sequence[str]], Statistics] | None = collect
        self._statistics: Mapping[str, TensorStatistics] = {}
        self._asked: set[str] = set()
        self._ranges: dict[tuple[str, Scheme], tuple[float, float]] = {}
        self._parameters: dict[tuple[tuple[float, float], Scheme], tuple[np.float32, int]] = {}

    def use(self, statistics: Statistics) -> None:
        """Take these statistics and collect no others; what came of earlier ones is forgotten."""
        self._collect = None
        self._statistics = statistics
        self._ranges.clear()

    def known(self, tensors: Iterable[str]) -> list[str]:
        """Those of the tensors that have statistics, which are collected if need be."""
        names = list(tensors)
        missing = [name for name in names if name not in self._statistics and name not in self._asked]
        if missing and self._collect is not None:
            self._statistics = {**self._statistics, **self._collect(missing)}
            self._asked.update(missing)
        return [name for name in names if name in self._statistics]

    def of(self, tensor: str, scheme: Scheme) -> tuple[float, float]:
        """Clip range of a tensor by the method of a scheme."""
        key = (tensor, scheme)
        if key not in self._ranges:
            try:
                self._ranges[key] = activation_range(self._statistics[tensor], scheme)
            except TrialError as error:
                raise TrialError(f'calibration of tensor "{tensor}": {error}') from error
        return self._ranges[key]

    def parameters(self, clip: tuple[float, float], scheme: Scheme) -> tuple[np.float32, int]:
        """Scale and zero point of a range by a scheme."""
        key = (clip, scheme)
        if key not in self._parameters:
            self._parameters[key] = parameters(*clip, scheme)
        return self._parameters[key]
