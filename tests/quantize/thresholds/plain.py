"""The threshold methods once more, slow and plain: lists, loops and `math`; no numpy, no prefix sums.

Shared with the code under test is only what has tests of its own: `parameters` (scale and zero point of a
range), the values of the float8 types, and the edges of the histograms' bins.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from itertools import pairwise

from disttune.config.schemes import FLOAT8_DTYPES, Scheme
from disttune.quantize.parameters import code_range, float8_max, float8_values, parameters
from disttune.quantize.statistics.histogram import log_bin_edges
from disttune.quantize.statistics.tensor_statistics import TensorStatistics

Range = tuple[float, float]
Bin = tuple[float, float, float]  # from, to, number of values
TIE = 1e-9
NOISE = 1e-12


class PlainDensity:
    """Non-zero values in bins from the least to the greatest value, made from the counts."""

    def __init__(self, statistics: TensorStatistics):
        self.low, self.high = min(statistics.minimum, 0.0), max(statistics.maximum, 0.0)
        self.n_zero = statistics.n_zero
        counts = [int(c) for c in statistics.counts]
        counts[2048] -= statistics.n_zero
        self.logarithmic = bulk_bins(counts) < 128
        edges = [float(e) for e in (log_bin_edges() if self.logarithmic else statistics.bin_edges())]
        if self.logarithmic:
            counts = [int(c) for c in statistics.log_counts]
        self.width = 0.0 if self.logarithmic else edges[1] - edges[0]
        self.bins: list[Bin] = []
        point_low, point_high = self.low * (1 - 2.0**-20), self.high * (1 - 2.0**-20)
        for start, stop, count in zip(edges, edges[1:], counts, strict=False):
            if stop <= self.low < 0 and count:  # a point at the minimum
                self.bins.append((self.low, point_low, count))
            elif start >= self.high > 0 and count:
                self.bins[-1] = (self.bins[-1][0], point_high, self.bins[-1][2])
                self.bins.append((point_high, self.high, count))
            elif stop > self.low and start < self.high:
                begin = point_low if self.bins and self.bins[-1][1] == point_low else max(start, self.low)
                self.bins.append((begin, min(stop, self.high), count))
        self.n = sum(c for _, _, c in self.bins)


def bulk_bins(counts: Sequence[int]) -> int:
    """From the first to the last bin that holds values inside 99.9 % of them."""
    total = sum(counts)
    outside = total * (1 - 0.999) / 2
    before, inside = 0, []
    for i, count in enumerate(counts):
        before += count
        if before > outside and before - count < total - outside:
            inside.append(i)
    return inside[-1] - inside[0] + 1 if inside else 0


def levels(rmin: float, rmax: float, scheme: Scheme) -> list[float]:
    """Everything that the quantizer of a range can represent."""
    scale, zero_point = parameters(rmin, rmax, scheme)
    if scheme.dtype in FLOAT8_DTYPES:
        return [float(scale) * float(v) for v in float8_values(scheme.dtype)]
    first, last = code_range(scheme.dtype)
    return [float(scale) * (code - zero_point) for code in range(first, last + 1)]


def pieces(density: PlainDensity, every: list[float]) -> list[tuple[float, float, float, int]]:
    """Bins cut where rounding goes over to another level: from, to, number of values, level."""
    found = []
    edges = [(a + b) / 2 for a, b in pairwise(every)]
    for start, stop, count in density.bins:
        if not count:
            continue
        at = bisect_right(edges, start)
        cuts = [start, *edges[at : bisect_left(edges, stop)], stop]
        for k, (a, b) in enumerate(pairwise(cuts)):
            found.append((a, b, count * (b - a) / (stop - start), at + k))
    return found


def error_of(density: PlainDensity, every: list[float], p: float, gamma: float = 1.0) -> float:
    """Sum of |x - level|**p, beyond the outermost levels times gamma."""

    def power(u: float) -> float:
        return math.copysign(abs(u) ** (p + 1), u) / (p + 1)

    total = 0.0
    for a, b, mass, k in pieces(density, every):
        ends = [a, *(end for end in (every[0], every[-1]) if a < end < b), b]
        for start, stop in pairwise(ends):
            weight = 1.0 if every[0] <= (start + stop) / 2 <= every[-1] else gamma
            total += weight * mass / (b - a) * (power(stop - every[k]) - power(start - every[k]))
    return total


def energy(density: PlainDensity) -> float:
    """Sum of all squares: the error of having level 0 alone."""
    return error_of(density, [0.0, math.inf], 2)


def information_lost(density: PlainDensity, every: list[float]) -> float:
    """Divergence of the values from what the quantizer keeps of them; see `entropy`."""
    first, last = every[0] - (every[1] - every[0]) / 2, every[-1] + (every[-1] - every[-2]) / 2
    cells: dict[int, list[tuple[float, float]]] = {}  # parts of a cell that hold values: mass, width
    clipped = {0: 0.0, len(every) - 1: 0.0}
    for start, stop, mass, k in pieces(density, every):
        a, b = max(start, first), min(stop, last)
        if a < b:
            cells.setdefault(k, []).append((mass * (b - a) / (stop - start), b - a))
        if start < first:
            clipped[0] += mass * (min(stop, first) - start) / (stop - start)
        if stop > last:
            clipped[len(every) - 1] += mass * (stop - max(start, last)) / (stop - start)
    kept = sum(mass for parts in cells.values() for mass, _ in parts)
    if not kept:
        return math.inf
    for k, n in clipped.items():
        mass, width = bin_at(density, every[k])
        if n and not mass and k in cells:
            cells[k].append((0.0, width))  # holds the clipped values, so the cell is spread over it too
    spread = {k: sum(m for m, _ in parts) / sum(w for _, w in parts) for k, parts in cells.items()}
    lost = sum(m * math.log(m / w / spread[k]) for k, parts in cells.items() for m, w in parts if m)
    for k, n in clipped.items():
        if n:
            mass, width = bin_at(density, every[k])
            taken = spread.get(k, 1e-4 / width)
            lost += (mass + n) * math.log((mass + n) / width) - n * math.log(taken)
            lost -= mass * math.log(mass / width) if mass else 0.0
    return lost / density.n + math.log(kept / density.n)


def bin_at(density: PlainDensity, x: float) -> tuple[float, float]:
    """Mass and width of the bin of a point, or of the outermost bin."""
    start, stop, mass = next((b for b in density.bins if x < b[1]), density.bins[-1])
    return mass, stop - start


def quantile(density: PlainDensity, share: float, *, magnitudes: bool) -> float:
    """Where so great a share of all values is below, zeros counted."""
    parts = [(a, b, float(c)) for a, b, c in density.bins if c]
    if magnitudes:
        parts = [(min(abs(a), abs(b)), max(abs(a), abs(b)), c) for a, b, c in parts]
        cuts = sorted({end for a, b, _ in parts for end in (a, b)})
        parts = [
            (a, b, sum(c * (b - a) / (q - p) for p, q, c in parts if p <= a and b <= q))
            for a, b in pairwise(cuts)
        ]
    parts = sorted([*(part for part in parts if part[2]), (0.0, 0.0, float(density.n_zero))])
    if magnitudes or density.low == 0:
        parts.sort(key=lambda part: (part[1] > 0, part))
    wanted, before = share * sum(c for _, _, c in parts), 0.0
    for a, b, count in parts:
        if before + count >= wanted:
            return a + (b - a) * (wanted - before) / count if count else a
        before += count
    return parts[-1][1]


def searched(
    density: PlainDensity,
    scheme: Scheme,
    cost: Callable[[float, float], float],
    n_double: int = 32,
    coarse_cost: Callable[[float, float], float] | None = None,
    noise: float = 0.0,
) -> Range:
    """Rules of `clip_search`, one range after the other."""
    symmetric = scheme.symmetric or scheme.dtype in FLOAT8_DTYPES
    single = symmetric or density.low == 0 or density.high == 0
    n, parts = (128, 8) if single else (n_double, 1)
    if density.logarithmic:
        n = octaves(density) * parts

    def range_of(k: float, j: float) -> Range:
        f, g = (2.0 ** ((i - n) / parts) if density.logarithmic else i / n for i in (k, j))
        if symmetric:
            reach = f * max(-density.low, density.high)
            return max(-reach, density.low), min(reach, density.high)
        return density.low * f, density.high * g

    steps = [float(k) for k in range(1, n + 1)]
    grid = [(k, k) for k in steps] if single else [(k, j) for k in steps for j in steps]
    found = best(grid, range_of, coarse_cost or cost, noise)
    for size in (1 / 4, 1 / 16):
        around = [[min(k + size * i, n) for i in range(-3, 4) if min(k + size * i, n) > 0] for k in found]
        grid = [(k, k) for k in around[0]] if single else [(k, j) for k in around[0] for j in around[1]]
        found = best(grid, range_of, cost, noise)
    return range_of(*found)


def best(
    grid: Sequence[tuple[float, float]],
    range_of: Callable[[float, float], Range],
    cost: Callable[[float, float], float],
    noise: float,
) -> tuple[float, float]:
    """The widest of the ranges that cost least, then the first."""
    costs = [cost(*range_of(*at)) for at in grid]
    least = min(costs)
    equal = [at for at, c in zip(grid, costs, strict=True) if c <= least + max(abs(least) * TIE, noise)]
    widths = [range_of(*at)[1] - range_of(*at)[0] for at in equal]
    return equal[widths.index(max(widths))]


def octaves(density: PlainDensity) -> int:
    """How often the larger end has to be halved to reach the median magnitude."""
    no_zeros = PlainDensity.__new__(PlainDensity)
    no_zeros.__dict__.update(density.__dict__, n_zero=0)
    median = quantile(no_zeros, 0.5, magnitudes=True)
    return min(max(math.ceil(math.log2(max(-density.low, density.high) / median)), 1), 64)


def mse(density: PlainDensity, scheme: Scheme) -> Range:
    def cost(low: float, high: float) -> float:
        return error_of(density, levels(low, high, scheme), 2)

    return searched(density, scheme, cost, noise=energy(density) * NOISE)


def lp(density: PlainDensity, scheme: Scheme, p: float) -> Range:
    wide = PlainDensity.__new__(PlainDensity)
    wide.__dict__.update(density.__dict__, bins=wider_bins(density.bins, 512))
    return searched(
        density,
        scheme,
        lambda low, high: error_of(density, levels(low, high, scheme), p),
        coarse_cost=lambda low, high: error_of(wide, levels(low, high, scheme), p),
        noise=NOISE * sum(c * max(abs(a), abs(b)) ** p for a, b, c in density.bins),
    )


def wider_bins(bins: list[Bin], n_bins: int) -> list[Bin]:
    """Runs of bins of one sign, counted from zero."""
    step = -(-len(bins) // n_bins)
    positive = [b for b in bins if b[0] >= 0]
    negative = [b for b in bins if b[0] < 0][::-1]
    runs = [negative[i : i + step][::-1] for i in range(0, len(negative), step)][::-1]
    runs += [positive[i : i + step] for i in range(0, len(positive), step)]
    return [(run[0][0], run[-1][1], sum(c for _, _, c in run)) for run in runs]


def entropy(density: PlainDensity, scheme: Scheme) -> Range:
    finest = 0.0 if scheme.dtype in FLOAT8_DTYPES else density.width

    def cost(low: float, high: float) -> float:
        scale = float(parameters(low, high, scheme)[0])
        if scale < finest and (low, high) != (density.low, density.high):
            return math.inf
        return information_lost(density, levels(low, high, scheme))

    return searched(density, scheme, cost, n_double=16, noise=NOISE)


def sqnr(density: PlainDensity, scheme: Scheme, gamma: float) -> Range:
    low, high = density.low, density.high
    symmetric = scheme.symmetric or scheme.dtype in FLOAT8_DTYPES
    n = 100 if symmetric else 16
    sizes = [0.5**i for i in range(octaves(density), 0, -1)] if density.logarithmic else []
    sizes += [i / n for i in range(1, n + 2)]
    if symmetric:
        reach = max(-low, high)
        ranges = [(-size * reach, size * reach) for size in sizes]
    else:
        places = [i / 20 - 1 for i in range(21)]
        widths = [size * (high - low) for size in sizes]
        ranges = [(w * place, w * place + w) for w in widths for place in places]
    ranges = [(max(a, low), min(b, high)) for a, b in [*ranges, (low, high)]]
    ranges = [(a, b) for a, b in ranges if b > a]
    noise = energy(density) * NOISE
    return best(
        ranges, lambda a, b: (a, b), lambda a, b: error_of(density, levels(a, b, scheme), 2, gamma), noise
    )


def pow2_mse(density: PlainDensity, scheme: Scheme) -> Range:
    low, high = density.low, density.high
    ranges = [(low, high)]
    scale = float(parameters(low, high, scheme)[0])
    for _ in range(7):
        scale /= 2
        if scheme.dtype in FLOAT8_DTYPES:
            reach = scale * float8_max(scheme.dtype)
            ranges.append((-reach, reach))
            continue
        first, last = code_range(scheme.dtype, scheme.symmetric)
        if scheme.symmetric:
            reach = scale * (last - first) / 2
            ranges.append((-reach, reach))
            continue
        least = min(max(math.ceil(last - high / scale), first), last)
        most = min(max(math.floor(first - low / scale), least), last)
        for i in range(17):
            zero = round(least + (most - least) * i / 16)
            ranges.append(((first - zero) * scale, (last - zero) * scale))
    ranges = [(max(a, low), min(b, high)) for a, b in ranges]
    noise = energy(density) * NOISE
    return best(ranges, lambda a, b: (a, b), lambda a, b: error_of(density, levels(a, b, scheme), 2), noise)


def percentile(density: PlainDensity, scheme: Scheme, percent: float) -> Range:
    if scheme.symmetric or scheme.dtype in FLOAT8_DTYPES:
        reach = quantile(density, percent / 100, magnitudes=True)
        return max(-reach, density.low), min(reach, density.high)
    tail = (1 - percent / 100) / 2
    low, high = (quantile(density, share, magnitudes=False) for share in (tail, 1 - tail))
    return min(max(low, density.low), 0.0), max(min(high, density.high), 0.0)


def ema(minima: Sequence[float], maxima: Sequence[float], constant: float) -> Range:
    low, high = minima[0], maxima[0]
    for a, b in zip(minima[1:], maxima[1:], strict=True):
        low, high = low + constant * (a - low), high + constant * (b - high)
    return min(low, 0.0), max(high, 0.0)
