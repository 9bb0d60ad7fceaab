"""Statistics of one tensor: extrema and histograms, mergeable without any loss."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from disttune.quantize.statistics.histogram import (
    N_BINS,
    N_COUNTERS,
    ZERO_EXPONENT,
    Counts,
    FloatArray,
    bin_edges,
    coarsened,
)


@dataclass(frozen=True, eq=False)
class TensorStatistics:
    """What is known of a tensor's values over some samples.

    Infinities and |x| >= 1e30 (attention masks) are excluded from everything but `n_excluded`.

    Args:
        n: values that count.
        n_zero: of these, zeros of either sign.
        n_excluded: infinities and masks.
        minimum: of the values that count; 0 when there are none.
        maximum: likewise.
        sample_minima: least value of each sample, in order, shape (n_samples,); 0 for one without values.
            Where the tensor's first dimension is not that of the inputs, a feed has one entry for all.
        sample_maxima: likewise.
        exponent: of the linear bins, see `histogram`.
        counts: values in each linear bin, shape (4096,).
        log_counts: values but zeros in each counter by magnitude, shape (2048,).
    """

    n: int
    n_zero: int
    n_excluded: int
    minimum: float
    maximum: float
    sample_minima: FloatArray
    sample_maxima: FloatArray
    exponent: int
    counts: Counts
    log_counts: Counts

    @property
    def n_samples(self) -> int:
        return self.sample_minima.size

    @property
    def absmax(self) -> float:
        return max(-self.minimum, self.maximum)

    def bin_edges(self) -> FloatArray:
        """Edges of the linear bins, ascending, shape (4097,)."""
        return bin_edges(self.exponent)

    @classmethod
    def empty(cls) -> Self:
        """Of no samples: merging it changes nothing."""
        none = np.zeros(0)
        counts, log_counts = np.zeros(N_BINS, np.int64), np.zeros(N_COUNTERS, np.int64)
        return cls(0, 0, 0, 0.0, 0.0, none, none, ZERO_EXPONENT, counts, log_counts)

    @classmethod
    def merged(cls, parts: Sequence[Self]) -> Self:
        """Statistics of all samples together: byte for byte the same for any grouping of them.

        Args:
            parts: in the order of their samples.
        """
        parts = parts or [cls.empty()]
        counting = [part for part in parts if part.n]
        exponent = max(part.exponent for part in parts)
        return cls(
            n=sum(part.n for part in parts),
            n_zero=sum(part.n_zero for part in parts),
            n_excluded=sum(part.n_excluded for part in parts),
            minimum=min((part.minimum for part in counting), default=0.0),
            maximum=max((part.maximum for part in counting), default=0.0),
            sample_minima=np.concatenate([part.sample_minima for part in parts]),
            sample_maxima=np.concatenate([part.sample_maxima for part in parts]),
            exponent=exponent,
            counts=_sum([coarsened(part.counts, exponent - part.exponent) for part in parts]),
            log_counts=_sum([part.log_counts for part in parts]),
        )


def _sum(parts: Sequence[Counts]) -> Counts:
    """Without stacking them, which would take longer."""
    total = parts[0].copy()
    for part in parts[1:]:
        total += part
    return total
