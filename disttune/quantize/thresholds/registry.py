"""Threshold methods by name, and what is the same for all of them.

Rules:
1. No values: the range is 0 to 0.
2. 16-bit types take the observed range with every method: their step is so small that clipping gains
   nothing, and histograms of 4,096 bins cannot tell it.
3. A method's range is cut to the observed one, and then made to contain zero: wider only wastes codes.
   (Of "distribution" it is not: it states a scale of a float8 type, which loses nothing by being wide.)
4. Weights are quantized on exact values, many slices at once, where a method says how. Where it does not,
   slice by slice as activations are.

Adding a method is a new file in this package with `@register_threshold("name")`, and its name in
`config.schemes.METHODS`.
"""

import importlib
import pkgutil
from collections.abc import Callable
from functools import cache

import numpy as np

from disttune.config.errors import InputError
from disttune.config.nearest import unknown_name
from disttune.config.schemes import METHODS, Scheme
from disttune.quantize.parameters import Float32Array, Range
from disttune.quantize.statistics.layout import Samples
from disttune.quantize.statistics.observer import TensorObserver
from disttune.quantize.statistics.tally import Tally
from disttune.quantize.statistics.tensor_statistics import TensorStatistics
from disttune.quantize.thresholds.slices import Ranges, Slices

Threshold = Callable[[TensorStatistics, Scheme], Range]
SliceThreshold = Callable[[Slices], Ranges]
_OF_TENSORS: dict[str, Threshold] = {}
_OF_SLICES: dict[str, SliceThreshold] = {}
_UNCLAMPED: set[str] = set()


def register_threshold(name: str, *, clamped: bool = True) -> Callable[[Threshold], Threshold]:
    """Decorator of a function (statistics, scheme) -> (rmin, rmax); the rules are applied to what it returns.

    Args:
        name: what users write as method.
        clamped: whether the first half of rule 3 holds, for weights too.
    """

    def register(method: Threshold) -> Threshold:
        _OF_TENSORS[name] = method
        if not clamped:
            _UNCLAMPED.add(name)
        return method

    return register


def register_slice_threshold(name: str) -> Callable[[SliceThreshold], SliceThreshold]:
    """Decorator of a function of `Slices` -> (rmin, rmax), each (n_slices,); rule 4."""

    def register(method: SliceThreshold) -> SliceThreshold:
        _OF_SLICES[name] = method
        return method

    return register


def activation_range(statistics: TensorStatistics, scheme: Scheme) -> Range:
    """Clip range of a tensor by the method of its scheme.

    Args:
        statistics: of the tensor's values.
        scheme: dtype, symmetric, method and parameter count.
    Returns:
        rmin <= 0 <= rmax, in units of the tensor; both 0 where there is no value but zero.
    Raises:
        InputError: there is no such method.
    """
    method = _find(scheme.method)
    low, high = min(statistics.minimum, 0.0), max(statistics.maximum, 0.0)
    if low == high or _has_sixteen_bits(scheme):
        return low, high
    rmin, rmax = method(statistics, scheme)
    if scheme.method not in _UNCLAMPED:
        rmin, rmax = max(rmin, low), min(rmax, high)
    return min(rmin, 0.0), max(rmax, 0.0)


def slice_ranges(rows: Float32Array, scheme: Scheme) -> Ranges:
    """Clip range of each slice of a weight by the method of its scheme.

    Args:
        rows: a slice in each row, finite, shape (n_slices, n_values).
        scheme: dtype, symmetric, method and parameter count.
    Returns:
        rmin <= 0 <= rmax, shape (n_slices,) each.
    Raises:
        InputError: there is no such method.
    """
    _find(scheme.method)
    slices = Slices.of(rows, scheme)
    if not rows.size or _has_sixteen_bits(scheme):
        return slices.low, slices.high
    rmin, rmax = _OF_SLICES.get(scheme.method, _one_by_one)(slices)
    if scheme.method not in _UNCLAMPED:
        rmin, rmax = np.maximum(rmin, slices.low), np.minimum(rmax, slices.high)
    return np.minimum(rmin, 0.0), np.maximum(rmax, 0.0)


def slice_statistics(slices: Slices) -> list[TensorStatistics]:
    """Statistics of each slice, as of an activation."""
    tally = Tally()
    found = []
    for row in slices.rows:
        observer = TensorObserver(tally)
        observer.add([Samples(row, 1)])
        found.append(observer.statistics())
    return found


def threshold_names() -> list[str]:
    """Every method, sorted."""
    _import_shipped()
    return sorted(_OF_TENSORS)


def parameter_of(scheme: Scheme) -> float:
    """The parameter of a scheme's method, or the method's default."""
    parameter = METHODS[scheme.method] if scheme.parameter is None else scheme.parameter
    assert parameter is not None, scheme
    return parameter


def _find(name: str) -> Threshold:
    _import_shipped()
    if name not in _OF_TENSORS:
        raise InputError(unknown_name("threshold method", name, _OF_TENSORS))
    return _OF_TENSORS[name]


def _one_by_one(slices: Slices) -> Ranges:
    ranges = [activation_range(statistics, slices.scheme) for statistics in slice_statistics(slices)]
    rmin, rmax = np.array(ranges).T
    return rmin, rmax


def _has_sixteen_bits(scheme: Scheme) -> bool:
    return scheme.dtype in ("int16", "uint16")


@cache
def _import_shipped() -> None:
    package = importlib.import_module("disttune.quantize.thresholds")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"disttune.quantize.thresholds.{module.name}")
