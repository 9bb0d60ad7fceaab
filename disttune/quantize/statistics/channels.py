"""Statistics per channel of an activation: what smoothing and equalizing need of the calibration samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ChannelStatistics:
    """Of one tensor along one axis, over all samples.

    Args:
        n: values for each channel.
        minimum, maximum: of each channel, float64, shape (C,).
        total: sum of the values of each channel, float64, shape (C,).
        absolute: sum of their magnitudes, float64, shape (C,).
        squares: sum of their squares (the diagonal of the Gram matrix), float64, shape (C,).
    """

    n: int
    minimum: Floats
    maximum: Floats
    total: Floats
    absolute: Floats
    squares: Floats

    @property
    def absmax(self) -> Floats:
        """Greatest magnitude of each channel, shape (C,)."""
        return np.maximum(np.abs(self.minimum), np.abs(self.maximum))

    @property
    def mean(self) -> Floats:
        """Mean of each channel, shape (C,); zeros when nothing was seen."""
        return self.total / max(self.n, 1)

    @classmethod
    def of(cls, values: NDArray[np.floating], axis: int) -> Self:
        """Statistics of one array."""
        rows = np.moveaxis(values, axis, -1).reshape(-1, values.shape[axis]).astype(np.float64)
        return cls(
            len(rows),
            rows.min(axis=0, initial=np.inf),
            rows.max(axis=0, initial=-np.inf),
            rows.sum(axis=0),
            np.abs(rows).sum(axis=0),
            (rows * rows).sum(axis=0),
        )

    @classmethod
    def merged(cls, parts: Sequence[Self]) -> Self:
        """Of all samples together; sums are added in the order given."""
        return cls(
            sum(part.n for part in parts),
            np.minimum.reduce([part.minimum for part in parts]),
            np.maximum.reduce([part.maximum for part in parts]),
            np.add.reduce([part.total for part in parts]),
            np.add.reduce([part.absolute for part in parts]),
            np.add.reduce([part.squares for part in parts]),
        )


def channels_as_arrays(channels: Mapping[str, ChannelStatistics]) -> dict[str, NDArray[Any]]:
    """Plain arrays for other ranks: see `channels_from_arrays`."""
    arrays: dict[str, NDArray[Any]] = {"names": np.array(list(channels), dtype=np.str_)}
    for i, statistics in enumerate(channels.values()):
        arrays |= {f"{i}/{f.name}": np.asarray(getattr(statistics, f.name)) for f in fields(statistics)}
    return arrays


def channels_from_arrays(arrays: Mapping[str, NDArray[Any]]) -> dict[str, ChannelStatistics]:
    """What `channels_as_arrays` was made of."""
    found = {}
    for i, name in enumerate(arrays["names"]):
        values: dict[str, Any] = {f.name: arrays[f"{i}/{f.name}"] for f in fields(ChannelStatistics)}
        found[str(name)] = ChannelStatistics(**{**values, "n": int(values["n"])})
    return found
