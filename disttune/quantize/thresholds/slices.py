"""Slices of a weight, and the clip range of each with the least error of quantizing.

Rules:
1. A slice is a channel, a group of one, or the whole tensor: a row of a matrix.
2. Ranges contain zero and lie within the slice's own, which is always tried. Every range is scored with the
   very quantizer, on every value.
3. Ends are k/128 of the slice's own. A symmetric range: k = 128 down to 1, then two rounds of six more
   around the best, a quarter of a step apart and then a sixteenth.
4. An asymmetric range: both ends together, k = 128 down to 1; then each end alone, every fourth k; then two
   rounds for each, one step apart and then a quarter. All pairs of ends would be a thousand passes.
5. Costs that differ by less than one part in 10**9 are equal; of equal ones the widest range wins, then the
   first.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from disttune.config.schemes import FLOAT8_DTYPES, Scheme
from disttune.quantize.parameters import (
    Codes,
    Float32Array,
    FloatArray,
    IntArray,
    code_range,
    float8_max,
    float8_type,
    is_symmetric,
    parameter_arrays,
)
from disttune.quantize.thresholds.clip_search import TIE

Ranges = tuple[FloatArray, FloatArray]  # rmin, rmax of each slice
_PIECE = 1 << 17  # values that are quantized at a time: their copies stay in the processor's cache
_N_STEPS = 128
_STEPS_ALONE = range(_N_STEPS, 0, -4)
_LEAST_STEP = 1 / 16
_AROUND = (3, 2, 1, -1, -2, -3)


@dataclass(frozen=True, slots=True, eq=False)
class Slices:
    """Slices of a weight, and how they are to be quantized.

    Args:
        rows: finite, shape (n_slices, n_values).
        low, high: ends of each slice's own range, which contains zero; shape (n_slices,).
        scheme: of all of them.
    """

    rows: Float32Array
    low: FloatArray
    high: FloatArray
    scheme: Scheme

    @classmethod
    def of(cls, rows: Float32Array, scheme: Scheme) -> Self:
        low = rows.min(axis=1, initial=0).astype(np.float64)
        high = rows.max(axis=1, initial=0).astype(np.float64)
        return cls(rows, low, high, scheme)

    @property
    def codes(self) -> Codes | None:
        """Codes in use; None for float8, which uses all."""
        if self.scheme.dtype in FLOAT8_DTYPES:
            return None
        return code_range(self.scheme.dtype, self.scheme.symmetric, reduce_range=self.scheme.reduce_range)

    def portions(self) -> Iterator[Self]:
        """Runs of whole slices that fit the cache together."""
        n_rows = max(_PIECE // max(self.rows.shape[1], 1), 1)
        for i in range(0, self.rows.shape[0], n_rows):
            part = slice(i, i + n_rows)
            yield replace(self, rows=self.rows[part], low=self.low[part], high=self.high[part])


@dataclass(frozen=True, slots=True, eq=False)
class Errors:
    """What a quantizer does to values.

    Args:
        values: shape (n_slices, n).
        errors: quantized minus true, of the same shape; may be overwritten.
        lowest, highest: the outermost levels, shape (n_slices, 1).
    """

    values: Float32Array
    errors: Float32Array
    lowest: Float32Array
    highest: Float32Array


Score = Callable[[Errors], FloatArray]  # sum over the values of each slice, shape (n_slices,)


def squares(made: Errors) -> FloatArray:
    """Sum of squared errors."""
    return _sums(np.square(made.errors, out=made.errors))


def powers(p: float) -> Score:
    """Sum of |error|**p."""

    def score(made: Errors) -> FloatArray:
        return _sums(np.abs(made.errors.astype(np.float64)) ** p)

    return score


def saturation_weighted(gamma: float) -> Score:
    """Sum of squared errors, those of values beyond the outermost levels times gamma."""

    def score(made: Errors) -> FloatArray:
        beyond = made.values - np.clip(made.values, made.lowest, made.highest)
        return squares(made) + (gamma - 1) * _sums(np.square(beyond))

    return score


def least_error(slices: Slices, score: Score) -> Ranges:
    """The range of each slice with the least error; rules 1 to 5."""
    search = _search_symmetric if is_symmetric(slices.scheme) else _search_asymmetric
    return _joined(search(_Search(part, score)) for part in slices.portions())


def least_error_of(slices: Slices, candidates: Callable[[Slices], Ranges], score: Score) -> Ranges:
    """The range of each slice with the least error, of some; rule 5.

    Args:
        slices: of a weight.
        candidates: gives the ranges to try, beside the slices' own: rmin, rmax (n_slices, n_ranges).
        score: of the errors.
    """

    def tried(part: Slices) -> Ranges:
        search = _Search(part, score)
        for rmin, rmax in zip(*(ends.T for ends in candidates(part)), strict=True):
            search.try_ranges(rmin, rmax)
        return search.rmin, search.rmax

    return _joined(tried(part) for part in slices.portions())


class _Search:
    """The best ranges so far, with the steps that gave them."""

    def __init__(self, slices: Slices, score: Score):
        self.slices = slices
        self._score = score
        self._made = np.empty((slices.rows.shape[0], min(slices.rows.shape[1], _PIECE)), np.float32)
        self.low_steps = np.full(slices.low.shape, float(_N_STEPS))
        self.high_steps = self.low_steps.copy()
        self.rmin, self.rmax = slices.low, slices.high
        self._cost = self._cost_of(slices.low, slices.high)

    def try_steps(self, low_steps: FloatArray | float, high_steps: FloatArray | float) -> None:
        """Try ranges whose ends are so many steps from zero."""
        low_share, high_share = (
            np.clip(steps, _LEAST_STEP, _N_STEPS) / _N_STEPS for steps in (low_steps, high_steps)
        )
        slices = self.slices
        if is_symmetric(slices.scheme):
            reach = high_share * np.maximum(-slices.low, slices.high)
            better = self.try_ranges(np.maximum(-reach, slices.low), np.minimum(reach, slices.high))
        else:
            better = self.try_ranges(slices.low * low_share, slices.high * high_share)
        self.low_steps = np.where(better, low_steps, self.low_steps)
        self.high_steps = np.where(better, high_steps, self.high_steps)

    def try_ranges(self, rmin: FloatArray, rmax: FloatArray) -> NDArray[np.bool_]:
        """Try a range for each slice; returns for which it is the best so far."""
        cost = self._cost_of(rmin, rmax)
        wider = rmax - rmin > self.rmax - self.rmin
        better = (cost < self._cost * (1 - TIE)) | (wider & (cost <= self._cost * (1 + TIE)))
        self._cost = np.where(better, cost, self._cost)
        self.rmin, self.rmax = np.where(better, rmin, self.rmin), np.where(better, rmax, self.rmax)
        return better

    def _cost_of(self, rmin: FloatArray, rmax: FloatArray) -> FloatArray:
        slices = self.slices
        scale, zero_point = parameter_arrays(rmin, rmax, slices.scheme)
        n_values = slices.rows.shape[1]
        cost = np.zeros(rmin.shape)
        for i in range(0, n_values, _PIECE):
            values = slices.rows[:, i : i + _PIECE]
            out = self._made[:, : values.shape[1]]
            with np.errstate(over="ignore"):  # beyond float32: saturates, or costs more than anything
                cost += self._score(_errors(values, scale[:, None], zero_point[:, None], slices, out))
        return cost


def _search_symmetric(search: _Search) -> Ranges:
    for k in range(_N_STEPS - 1, 0, -1):
        search.try_steps(k, k)
    for size in (1 / 4, 1 / 16):
        best = search.high_steps
        for i in _AROUND:
            search.try_steps(best + i * size, best + i * size)
    return search.rmin, search.rmax


def _search_asymmetric(search: _Search) -> Ranges:
    for k in range(_N_STEPS - 1, 0, -1):
        search.try_steps(k, k)
    for k in _STEPS_ALONE:
        search.try_steps(k, search.high_steps)
    for k in _STEPS_ALONE:
        search.try_steps(search.low_steps, k)
    for size in (1, 1 / 4):
        best = search.low_steps
        for i in _AROUND:
            search.try_steps(best + i * size, search.high_steps)
        best = search.high_steps
        for i in _AROUND:
            search.try_steps(search.low_steps, best + i * size)
    return search.rmin, search.rmax


def _errors(
    values: Float32Array,
    scale: Float32Array,
    zero_point: IntArray,
    slices: Slices,
    out: Float32Array,
) -> Errors:
    """What quantizers do to values; their parameters of shape (n_slices, 1)."""
    if slices.codes is None:
        most = np.full(scale.shape, float8_max(slices.scheme.dtype), np.float32)
        least = -most
    else:
        least, most = ((code - zero_point).astype(np.float32) for code in slices.codes)
    np.divide(values, scale, out=out)
    if slices.codes is not None:
        np.rint(out, out=out)
    if not zero_point.any():  # the same for all slices, and one number is faster than an array
        np.clip(out, least.flat[0], most.flat[0], out=out)
    else:
        np.minimum(np.maximum(out, least, out=out), most, out=out)
    if slices.codes is None:
        out[...] = out.astype(float8_type(slices.scheme.dtype))
    np.multiply(out, scale, out=out)
    np.subtract(out, values, out=out)
    return Errors(values, out, least * scale, most * scale)


def _sums(values: Float32Array | FloatArray) -> FloatArray:
    sums: FloatArray = values.sum(axis=1, dtype=np.float64)
    return sums


def _joined(parts: Iterable[Ranges]) -> Ranges:
    rmin, rmax = zip(*parts, strict=True)
    return np.concatenate(rmin), np.concatenate(rmax)
