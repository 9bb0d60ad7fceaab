"""The clip range with the least cost: a coarse grid, then finer grids around the best.

Rules:
1. Ranges contain zero and lie within the observed one, which is always tried.
2. A symmetric scheme, or values of one sign, leave one number to search; otherwise both ends are
   searched together.
3. Ends are k/n of the observed ones, k = 1 to n. Where an outlier has made that too coarse (logarithmic
   densities) they are octaves and parts of octaves below it, down to the median magnitude.
4. Around the best k two more rounds try 7 positions for each end, a quarter of a step apart and then a
   sixteenth.
5. Costs that differ by less than one part in 10**9, or by what their sums may be off by (`noise`), are
   equal; of equal ones the widest range wins, then the first.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from disttune.quantize.parameters import FloatArray, Range
from disttune.quantize.thresholds.density import Density

TIE = 1e-9  # rule 5
NOISE = 1e-12  # of the largest sums
_ROUNDS = (1 / 4, 1 / 16)
_AROUND = np.arange(-3.0, 4.0)
_OCTAVE_PARTS = 8  # with one number to search; with two, whole octaves
Cost = Callable[[FloatArray, FloatArray], FloatArray]  # rmin, rmax (n,) -> costs (n,)


@dataclass(frozen=True, slots=True)
class ClipSearch:
    """A search over clip ranges.

    Args:
        cost: of many ranges at once.
        coarse_cost: for the first grid, if a cheaper one does there.
        n_single: steps of the first grid with one number to search.
        n_double: steps of each end with two.
        noise: what costs may be off by.
        chunk: ranges handed to the cost at once; what it allocates should stay in the cache.
    """

    cost: Cost
    coarse_cost: Cost | None = None
    n_single: int = 128
    n_double: int = 32
    noise: float = 0.0
    chunk: int = 64

    def best(self, density: Density, symmetric: bool) -> Range:
        """The range with the least cost; rules 1 to 5."""
        low, high = float(density.edges[0]), float(density.edges[-1])
        single = symmetric or low == 0 or high == 0
        n, parts = (self.n_single, _OCTAVE_PARTS) if single else (self.n_double, 1)
        if density.logarithmic:
            n = density.octaves * parts
        steps = np.arange(1.0, n + 1)
        grid = np.stack((steps, steps) if single else _pairs(steps, steps))
        cost = self.coarse_cost or self.cost
        found = (float(n), float(n))
        for size in (None, *_ROUNDS):
            if size is not None:
                around = [np.minimum(k + size * _AROUND, n) for k in found]
                around = [k[k > 0] for k in around]
                grid = np.stack((around[0], around[0]) if single else _pairs(*around))
                cost = self.cost
            share = np.exp2((grid - n) / parts) if density.logarithmic else grid / n
            if symmetric:
                reach = share[0] * max(-low, high)
                ends = np.maximum(-reach, low), np.minimum(reach, high)
            else:
                ends = low * share[0], high * share[1]
            best = widest_of_least(self._costs(cost, *ends), ends[1] - ends[0], self.noise)
            found = float(grid[0, best]), float(grid[1, best])
            result = float(ends[0][best]), float(ends[1][best])
        return result

    def _costs(self, cost: Cost, rmin: FloatArray, rmax: FloatArray) -> FloatArray:
        starts = range(0, rmin.size, self.chunk)
        return np.concatenate([cost(rmin[i : i + self.chunk], rmax[i : i + self.chunk]) for i in starts])


def widest_of_least(costs: FloatArray, widths: FloatArray, noise: float = 0.0) -> int:
    """Position of the least cost; rule 5."""
    least = costs.min()
    equal = costs <= least + max(abs(least) * TIE, noise)
    return int(np.argmax(np.where(equal, widths, -1.0)))


def _pairs(first: FloatArray, second: FloatArray) -> tuple[FloatArray, FloatArray]:
    return np.repeat(first, second.size), np.tile(second, first.size)
