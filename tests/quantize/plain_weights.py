"""Ranges of weights once more, slow and plain: one slice, one range, one value at a time."""

import math
from collections.abc import Callable, Sequence

import ml_dtypes
import numpy as np

from disttune.config.schemes import FLOAT8_DTYPES, Scheme
from disttune.quantize.parameters import code_range, float8_max, parameters

Range = tuple[float, float]
TIE = 1e-9
FLOAT8 = {"float8e4m3fn": ml_dtypes.float8_e4m3fn, "float8e5m2": ml_dtypes.float8_e5m2}


class PlainSlice:
    """Values, and what a quantizer makes of them."""

    def __init__(self, values: Sequence[float], scheme: Scheme):
        self.values = [np.float32(v) for v in values]
        self.low = min(0.0, *map(float, self.values))
        self.high = max(0.0, *map(float, self.values))
        self.scheme, self.reduce_range = scheme, scheme.reduce_range

    def quantized(self, low: float, high: float) -> list[np.float32]:
        scale, zero_point = parameters(low, high, self.scheme)
        made = []
        for value in self.values:
            step = value / scale
            if self.scheme.dtype in FLOAT8_DTYPES:
                most = np.float32(float8_max(self.scheme.dtype))
                step = np.float32(FLOAT8[self.scheme.dtype](min(max(step, -most), most)))
            else:
                first, last = code_range(
                    self.scheme.dtype, self.scheme.symmetric, reduce_range=self.reduce_range
                )
                step = np.float32(min(max(round(float(step)) + zero_point, first), last) - zero_point)
            made.append(step * scale)
        return made

    def error(self, low: float, high: float, p: float = 2.0, gamma: float = 1.0) -> float:
        """Sum of |error|**p, and of what is beyond the outermost levels once more, times gamma - 1."""
        total = 0.0
        least, most = self.outermost(low, high)
        for value, made in zip(self.values, self.quantized(low, high), strict=True):
            total += float(np.square(made - value)) if p == 2 else abs(float(made - value)) ** p
            total += (gamma - 1) * float(np.square(value - min(max(value, least), most)))
        return total

    def outermost(self, low: float, high: float) -> tuple[np.float32, np.float32]:
        scale, zero_point = parameters(low, high, self.scheme)
        if self.scheme.dtype in FLOAT8_DTYPES:
            most = np.float32(float8_max(self.scheme.dtype))
            return -most * scale, most * scale
        codes = code_range(self.scheme.dtype, self.scheme.symmetric, reduce_range=self.reduce_range)
        first, last = (np.float32(code - zero_point) * scale for code in codes)
        return first, last


class PlainSearch:
    """Rules 3 to 5 of `slices`."""

    def __init__(self, values: PlainSlice, cost: Callable[[float, float], float]):
        self.values, self.cost = values, cost
        self.steps = (128.0, 128.0)
        self.range = (values.low, values.high)
        self.least = cost(*self.range)

    def attempt(self, k: float, j: float) -> None:
        low, high = self.values.low, self.values.high
        f, g = (min(max(i, 1 / 16), 128) / 128 for i in (k, j))
        if self.values.scheme.symmetric or self.values.scheme.dtype in FLOAT8_DTYPES:
            reach = g * max(-low, high)
            found = max(-reach, low), min(reach, high)
        else:
            found = low * f, high * g
        if self.attempt_range(*found):
            self.steps = (k, j)

    def attempt_range(self, low: float, high: float) -> bool:
        cost = self.cost(low, high)
        equal = self.least * (1 - TIE) <= cost <= self.least * (1 + TIE)
        wider = high - low > self.range[1] - self.range[0]
        if (equal and wider) or cost < self.least * (1 - TIE):
            self.range, self.least = (low, high), cost
            return True
        return False


def searched(values: PlainSlice, cost: Callable[[float, float], float]) -> Range:
    search = PlainSearch(values, cost)
    for k in range(127, 0, -1):
        search.attempt(k, k)
    around = (3, 2, 1, -1, -2, -3)
    if values.scheme.symmetric or values.scheme.dtype in FLOAT8_DTYPES:
        for size in (1 / 4, 1 / 16):
            best = search.steps[1]
            for i in around:
                search.attempt(best + i * size, best + i * size)
        return search.range
    for k in range(128, 0, -4):
        search.attempt(k, search.steps[1])
    for k in range(128, 0, -4):
        search.attempt(search.steps[0], k)
    for size in (1, 1 / 4):
        best = search.steps[0]
        for i in around:
            search.attempt(best + i * size, search.steps[1])
        best = search.steps[1]
        for i in around:
            search.attempt(search.steps[0], best + i * size)
    return search.range


def mse(values: PlainSlice) -> Range:
    return searched(values, values.error)


def lp(values: PlainSlice, p: float) -> Range:
    return searched(values, lambda low, high: values.error(low, high, p))


def sqnr(values: PlainSlice, gamma: float) -> Range:
    return searched(values, lambda low, high: values.error(low, high, gamma=gamma))


def pow2_mse(values: PlainSlice) -> Range:
    scheme, low, high = values.scheme, values.low, values.high
    search = PlainSearch(values, values.error)
    scale = float(parameters(low, high, scheme)[0])
    for _ in range(7):
        scale /= 2
        if scheme.dtype in FLOAT8_DTYPES:
            reaches = [(scale * float8_max(scheme.dtype),) * 2]
        else:
            first, last = code_range(scheme.dtype, scheme.symmetric, reduce_range=values.reduce_range)
            if scheme.symmetric:
                reaches = [(scale * (last - first) / 2,) * 2]
            else:
                least = min(max(math.ceil(last - high / scale), first), last)
                most = min(max(math.floor(first - low / scale), least), last)
                zeros = [round(least + (most - least) * i / 16) for i in range(17)]
                reaches = [((zero - first) * scale, (last - zero) * scale) for zero in zeros]
        for below, above in reaches:
            search.attempt_range(max(-below, low), min(above, high))
    return search.range
