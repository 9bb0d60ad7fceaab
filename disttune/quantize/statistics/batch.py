"""One tensor's values over some feeds, counted: extrema of each sample, and histograms of them all.

They depend on the values and on where samples end, not on how the arrays come in.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from disttune.quantize.statistics.histogram import HALF, Counts, FloatArray
from disttune.quantize.statistics.layout import Samples, layout_of
from disttune.quantize.statistics.tally import Tally

# Magnitudes from here on are no values: exporters write attention masks as -3.4e38 or minus infinity.
MASK = np.float32(1e30)
_INFINITY = np.float32(np.inf)


class NanError(Exception):
    """A tensor holds NaN in a sample, counted from the first one that was given."""

    def __init__(self, sample: int):
        super().__init__(sample)
        self.sample = sample


@dataclass(frozen=True, eq=False, slots=True)
class Batch:
    """Infinities and masks do not count; of a rectified batch, negative values are zeros.

    Args:
        samples: that came in.
        tally: has counted their values.
        extrema: least and greatest value of each sample, shape (2, n_samples); 0 for one without values.
        minimum: of all values; infinity when there are none.
        maximum: likewise, minus infinity.
        n: values that count.
        n_excluded: infinities and masks.
        rectified: see above.
    """

    samples: Sequence[Samples]
    tally: Tally
    extrema: FloatArray
    minimum: float
    maximum: float
    n: int
    n_excluded: int
    rectified: bool = False

    @classmethod
    def counted(cls, samples: Sequence[Samples], tally: Tally) -> Self:
        """Count values.

        Args:
            tally: a cleared one.
        Raises:
            NanError: there is NaN.
        """
        layout = layout_of(samples)
        minima, maxima = np.empty((2, layout.n_pieces), np.float32)
        n_excluded = 0
        for portion, values in layout.portions(samples):
            least = np.minimum.reduceat(values, portion.starts, out=minima[portion.pieces])
            most = np.maximum.reduceat(values, portion.starts, out=maxima[portion.pieces])
            if least.min() <= -MASK or most.max() >= MASK:
                counts = np.abs(values) < MASK
                n_excluded += values.size - int(np.count_nonzero(counts))
                np.minimum.reduceat(np.where(counts, values, _INFINITY), portion.starts, out=least)
                np.maximum.reduceat(np.where(counts, values, -_INFINITY), portion.starts, out=most)
                values = np.where(counts, values, np.float32(0))
            tally.add(values)
        extrema = np.zeros((2, layout.n_samples))
        if not layout.n_pieces:
            return cls(samples, tally, extrema, np.inf, -np.inf, 0, 0)
        minima = np.minimum.reduceat(minima, layout.first_pieces)
        maxima = np.maximum.reduceat(maxima, layout.first_pieces)
        if np.isnan(minima).any():
            raise NanError(int(layout.filled[np.isnan(minima).argmax()]))
        extrema[:, layout.filled] = minima, maxima
        extrema[np.isinf(extrema)] = 0  # of a sample that is nothing but masks
        extrema += 0.0  # no negative zeros: which zero is the least is chance
        ends = float(minima.min()), float(maxima.max())
        tally.close(max(-ends[0], ends[1], 0.0))
        return cls(samples, tally, extrema, *ends, tally.n - n_excluded, n_excluded)

    def rectify(self) -> Self:
        """The output of a Relu that reads the tensor; of one in which nothing is excluded."""
        ends = max(self.minimum, 0.0), max(self.maximum, 0.0)
        if not self.n:
            ends = self.minimum, self.maximum
        return replace(
            self, extrema=np.maximum(self.extrema, 0), minimum=ends[0], maximum=ends[1], rectified=True
        )

    def counters(self) -> Counts:
        """Values but zeros by magnitude: the positive ones, then the negative ones if any count."""
        return self.tally.counters()[: 1 if self.rectified else 2]

    def bins(self, exponent: int) -> Counts:
        """Values but zeros in linear bins from zero outwards, likewise.

        Args:
            exponent: of the bins; it has room for all values.
        """
        found = self.tally.bins(exponent) if Tally.tells(exponent) else self._plain_bins(exponent)
        return found[: 1 if self.rectified else 2]

    def _plain_bins(self, exponent: int) -> Counts:
        """One value after the other."""
        bins = np.zeros((2, HALF), np.int64)
        for part in self.samples:
            values = part.values.ravel().astype(np.float64)
            for side, magnitudes in enumerate((values,) if self.rectified else (values, -values)):
                chosen = magnitudes[(magnitudes > 0) & (magnitudes < MASK)]
                np.add.at(bins[side], (chosen * 2.0**-exponent).astype(np.intp), 1)
        return bins
