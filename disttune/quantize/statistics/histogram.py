"""Histograms that merge exactly, in any order: bins of power-of-two width, and counters by magnitude.

Linear: 4,096 bins of width w = 2**exponent, anchored at zero, ascending. Bin 2048 + j holds values x when
j * w <= x < (j + 1) * w; bin 2047 - j holds negative values of the same magnitudes. The exponent is the least
for which absmax < 2048 * w, strictly: a value on the limit would have no bin. Coarsening by a factor of two
adds pairs of bins and gives what binning with the wider bins gives, so a histogram depends on the values
alone, not on how they were grouped.

By magnitude: 2,048 counters, 16 to the octave, for magnitudes from 2**-40 to 2**24 on either side of zero,
ascending. Counter 1024 + j holds values from 2**(j // 16 - 40) * (1 + j % 16 / 16) to where the next begins;
counter 1023 - j holds negative values of the same magnitudes. The counters at zero and at the ends also hold
what is nearer to zero and farther from it. Zero itself is in none.
"""

import math

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
Counts = NDArray[np.int64]

N_BINS = 4096
HALF = N_BINS // 2
# The least exponent there is: half of it is the exponent of the smallest number above zero. Of zeros alone.
ZERO_EXPONENT = -160

N_COUNTERS = 2048
HALF_COUNTERS = N_COUNTERS // 2
COUNTERS_PER_OCTAVE = 16
LOWEST_OCTAVE = -40


def exponent_for(absmax: float) -> int:
    """The least exponent whose bins have room for values up to a magnitude.

    Args:
        absmax: finite, >= 0.
    """
    if absmax == 0:
        return ZERO_EXPONENT
    _, octave = math.frexp(absmax)  # 2**(octave - 1) <= absmax < 2**octave
    return octave - HALF.bit_length() + 1


def bin_edges(exponent: int) -> FloatArray:
    """Edges of the linear bins, ascending, shape (4097,)."""
    return np.ldexp(np.arange(-HALF, HALF + 1, dtype=np.float64), exponent)


def log_bin_edges() -> FloatArray:
    """Edges of the counters by magnitude, ascending, shape (2049,); the middle one is zero."""
    j = np.arange(1, HALF_COUNTERS + 1)
    octave, part = np.divmod(j, COUNTERS_PER_OCTAVE)
    positive = np.ldexp(1 + part / COUNTERS_PER_OCTAVE, octave + LOWEST_OCTAVE)
    return np.concatenate((-positive[::-1], [0.0], positive))


def coarsened(counts: Counts, steps: int) -> Counts:
    """The histogram with bins 2**steps times as wide.

    Args:
        counts: of linear bins, shape (4096,); not changed, and given back where there are no steps.
        steps: >= 0.
    """
    if not steps:
        return counts
    # From 2**11 on, one bin on each side of zero holds everything, and stays as it is.
    factor = 1 << min(steps, HALF.bit_length() - 1)
    sums = counts.reshape(-1, factor).sum(axis=1)
    wider = np.zeros(N_BINS, np.int64)
    wider[HALF - sums.size // 2 : HALF + sums.size // 2] = sums
    return wider
