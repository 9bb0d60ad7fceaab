"""A layer without units, in float32 and in blocks of columns, for algorithms that descend by gradients.

Columns do not depend on each other, so a block of them goes through all steps before the next one starts:
however wide the layer, memory for what belongs to a block is small. Descent needs no more digits than
float32 has; what it finds is judged in float64 (`Rounded`).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from disttune.quantize.algorithms.grid import CodeArray
from disttune.quantize.algorithms.layer import Floats
from disttune.quantize.algorithms.objective import Objective
from disttune.quantize.algorithms.rounded import Rounded
from disttune.quantize.parameters import Codes

Float32s = NDArray[np.float32]
_BLOCK_VALUES = 384 * 1024  # a dozen float32 arrays of them; at K = 1,536 half as many take 4 % longer
_LEAST_COLUMNS = 16


@dataclass(frozen=True, slots=True, eq=False)
class Relaxation:
    """All parts of some columns of a layer; the loss of a column is e^T H e, e = steps * (target - code).

    Args:
        gram: H, shape (n_parts, K, K); the mean of a part's diagonal is 1.
        steps: scales, shape (n_parts, K, n_columns); the mean of a column is 1.
        target: the wanted weight as a code, w / s + z, float64, shape (n_parts, K, n_columns).
        start: codes to begin with, shape (n_parts, K, n_columns).
        codes: lowest and highest code.
        units: of the loss of each part and column, shape (n_parts, 1, n_columns), float64.
    """

    gram: Float32s
    steps: Float32s
    target: Floats
    start: CodeArray
    codes: Codes
    units: Floats

    @classmethod
    def of(cls, start: Rounded, objectives: list[Objective]) -> Self:
        """A whole layer, from these codes on."""
        n_rows = start.codes.shape[1]
        steps = np.broadcast_to(start.grid.steps(n_rows), start.codes.shape)
        size = steps.mean(axis=1, keepdims=True)
        gram, power = normalized_gram(objectives)
        weight = np.stack([objective.weight for objective in objectives])
        return cls(
            gram=gram,
            steps=(steps / size).astype(np.float32),
            target=weight / steps + start.grid.zeros(n_rows),
            start=start.codes,
            codes=start.grid.codes,
            units=np.square(size) * power / objectives[0].n_rows,
        )

    def blocks(self) -> Iterator[tuple[slice, Self]]:
        """The columns in runs of bounded size."""
        n_parts, n_rows, n_columns = self.start.shape
        width = max(_LEAST_COLUMNS, _BLOCK_VALUES // (n_parts * n_rows))
        for first in range(0, n_columns, width):
            which = slice(first, first + width)
            yield which, self._columns(which)

    @property
    def power(self) -> Float32s:
        """Diagonal of H, shape (n_parts, K, 1); zero for inputs that never were but zero."""
        return np.diagonal(self.gram, axis1=1, axis2=2)[:, :, None]

    def pull(self, error: Float32s) -> Float32s:
        """H e, half of the loss's slope; error of shape (n_parts, K, n_columns)."""
        return np.asarray(np.matmul(self.gram, error))

    def _columns(self, which: slice) -> Self:
        return replace(
            self,
            steps=np.ascontiguousarray(self.steps[..., which]),
            target=self.target[..., which],
            start=self.start[..., which],
            units=self.units[..., which],
        )


class Adam:
    """Directions of Adam (Kingma and Ba 2015), about 1 in size where gradients agree.

    Args:
        shape: of the gradient.
        forget: share of the squared gradients that each step keeps.
    """

    def __init__(self, shape: tuple[int, ...], forget: float) -> None:
        self._mean = np.zeros(shape, np.float32)
        self._square = np.zeros(shape, np.float32)
        self._keep = np.float32(0.9), np.float32(forget)
        self._n_steps = 0

    def direction(self, gradient: Float32s) -> Float32s:
        """The next one; it is written over the gradient."""
        self._n_steps += 1
        first, second = self._keep
        self._mean *= first
        self._mean += (1 - first) * gradient
        np.square(gradient, out=gradient)
        gradient *= 1 - second
        self._square *= second
        self._square += gradient
        np.sqrt(self._square, out=gradient)
        gradient *= np.float32((1 - first**self._n_steps) / np.sqrt(1 - second**self._n_steps))
        gradient += np.float32(1e-12)
        return np.divide(self._mean, gradient, out=gradient)


def column_losses(error: Float32s, pull: Float32s) -> Float32s:
    """e^T H e of each part and column, shape (n_parts, 1, n_columns), of e and H e."""
    return np.asarray(np.einsum("pkn,pkn->pn", error, pull)[:, None])


def normalized_gram(objectives: list[Objective]) -> tuple[Float32s, Floats]:
    """H in float32 with a mean diagonal of 1 in each part, and by what it was divided, (n_parts, 1, 1)."""
    gram = np.stack([objective.gram for objective in objectives])
    power = np.diagonal(gram, axis1=1, axis2=2).mean(axis=1)[:, None, None]
    power = np.where(power > 0, power, 1.0)
    return (gram / power).astype(np.float32), power
