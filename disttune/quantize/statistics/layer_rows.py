"""The rows that a layer multiplies by its weight, cut out of the tensor that its op reads.

| op | a row of X |
| --- | --- |
| MatMul | the last dimension of A |
| Gemm | a row of A, a column with transA |
| Conv | the patch of the padded input under the kernel, in the order (input of the group, kernel element) |
| ConvTranspose | the channels of a pixel of its input: see `algorithms.layout` |

Rows come sample after sample, those of a sample in the order of positions. Nodes with equal `Rows` read the
same rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto
from onnx.helper import get_attribute_value

from disttune.config.errors import TrialError
from disttune.quantize.algorithms.layout import layout_of

Array = NDArray[Any]
Positions = NDArray[np.intp]


class Source(Protocol):
    """Where rows are read from: a sample, or a feed that cannot be told into samples."""

    @property
    def n_rows(self) -> int: ...

    def write(self, positions: Positions, out: Array) -> None:
        """Write some of the rows into an array of shape (n_parts, K, len(positions))."""
        ...


@dataclass(frozen=True, slots=True)
class MatrixRows:
    """Rows of MatMul and Gemm.

    Args:
        n_inputs: K.
        transposed: rows are the columns of the tensor.
    """

    n_inputs: int
    transposed: bool = False

    @property
    def n_parts(self) -> int:
        return 1

    def buffer(self, n_rows: int) -> Array:
        """Room for rows, shape (n_parts, K, n_rows), laid out so that writing is fast."""
        return np.empty((1, n_rows, self.n_inputs)).swapaxes(1, 2)

    def sources(self, tensor: Array, n_samples: int) -> Iterator[Source]:
        """Of one feed.

        Args:
            tensor: that the op reads.
            n_samples: of the feed; rows are told by sample where that is the tensor's first dimension.
        """
        if self.transposed:
            yield _Matrix(tensor.T)
        elif tensor.ndim > 1 and tensor.shape[0] == n_samples:
            for sample in tensor:
                yield _Matrix(sample.reshape(-1, self.n_inputs))
        else:
            yield _Matrix(tensor.reshape(-1, self.n_inputs))


@dataclass(frozen=True, slots=True)
class PatchRows:
    """Rows of Conv and ConvTranspose, for any number of spatial dimensions.

    Args:
        n_parts: groups.
        n_inputs: K.
        kernel, strides, dilations: for each spatial dimension.
        pads: before each spatial dimension, then behind each.
        auto_pad: "NOTSET" (take `pads`), "VALID", "SAME_UPPER" or "SAME_LOWER".
    """

    n_parts: int
    n_inputs: int
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]
    auto_pad: str = "NOTSET"

    def buffer(self, n_rows: int) -> Array:
        """Room for rows, shape (n_parts, K, n_rows), laid out so that writing is fast."""
        return np.empty((self.n_parts, self.n_inputs, n_rows))

    def sources(self, tensor: Array, n_samples: int) -> Iterator[Source]:  # noqa: ARG002 (axis 0 always is)
        """Of one feed: one for each element of the batch."""
        before, behind = self._pads(tensor.shape[2:])
        padded_shape = tuple(map(sum, zip(tensor.shape[2:], before, behind, strict=True)))
        steps = [math.prod(padded_shape[i + 1 :]) for i in range(len(padded_shape))]
        corners = self._corners(padded_shape, steps)
        kernel = _flat_positions(self.kernel, [d * s for d, s in zip(self.dilations, steps, strict=True)])
        inside = tuple(slice(a, a + n) for a, n in zip(before, tensor.shape[2:], strict=True))
        for sample in tensor:
            if padded_shape == tensor.shape[2:]:
                padded = sample
            else:
                padded = np.zeros((len(sample), *padded_shape), tensor.dtype)
                padded[:, *inside] = sample
            yield _Image(padded.reshape(len(sample), -1), corners, kernel)

    def _corners(self, padded: tuple[int, ...], steps: list[int]) -> Positions:
        """Where in the flat padded image the patch of each position begins."""
        spans = [(k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True)]
        counts = [(n - k) // s + 1 for n, k, s in zip(padded, spans, self.strides, strict=True)]
        return _flat_positions(counts, [s * step for s, step in zip(self.strides, steps, strict=True)])

    def _pads(self, sizes: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Zeros before and behind each spatial dimension."""
        if self.auto_pad in ("NOTSET", ""):
            half = len(self.pads) // 2
            return self.pads[:half], self.pads[half:]
        if self.auto_pad == "VALID":
            return (0,) * len(sizes), (0,) * len(sizes)
        needed = [
            max((math.ceil(n / s) - 1) * s + (k - 1) * d + 1 - n, 0)
            for n, k, s, d in zip(sizes, self.kernel, self.strides, self.dilations, strict=True)
        ]
        less, more = tuple(n // 2 for n in needed), tuple(n - n // 2 for n in needed)
        return (less, more) if self.auto_pad == "SAME_UPPER" else (more, less)


Rows = MatrixRows | PatchRows


def rows_of(node: NodeProto, shape: tuple[int, ...]) -> Rows:
    """What a node reads as rows.

    Args:
        node: a MatMul, Gemm, Conv or ConvTranspose.
        shape: of its weight.
    Raises:
        TrialError: as `layout_of`.
    """
    layout = layout_of(node, shape)
    found: dict[str, Any] = {a.name: get_attribute_value(a) for a in node.attribute}
    if node.op_type in ("MatMul", "Gemm"):
        return MatrixRows(layout.n_inputs, node.op_type == "Gemm" and found.get("transA", 0) != 0)
    n_spatial = len(shape) - 2
    if n_spatial < 1:
        raise TrialError(f"op {node.name}: its weight has shape {shape}, without a kernel")
    ones, zeros = (1,) * n_spatial, (0,) * 2 * n_spatial
    if node.op_type == "ConvTranspose":
        return PatchRows(layout.n_parts, layout.n_inputs, ones, ones, ones, zeros)
    kernel = shape[2:]
    return PatchRows(
        layout.n_parts,
        layout.n_inputs,
        kernel,
        tuple(found.get("strides", ones)),
        ones if kernel == ones else tuple(found.get("dilations", ones)),
        tuple(found.get("pads", zeros)),
        found.get("auto_pad", b"NOTSET").decode(),
    )


@dataclass(frozen=True, slots=True)
class _Matrix:
    rows: Array

    @property
    def n_rows(self) -> int:
        return len(self.rows)

    def write(self, positions: Positions, out: Array) -> None:
        first, last = int(positions[0]), int(positions[-1])
        all_between = last - first + 1 == positions.size
        out[0].T[:] = self.rows[first : last + 1] if all_between else self.rows[positions]


@dataclass(frozen=True, slots=True)
class _Image:
    """A padded image, flat, of shape (channels, pixels)."""

    pixels: Array
    corners: Positions
    kernel: Positions

    @property
    def n_rows(self) -> int:
        return self.corners.size

    def write(self, positions: Positions, out: Array) -> None:
        where = self.kernel[:, np.newaxis] + self.corners[positions]
        np.copyto(out, self.pixels.take(where, axis=1).reshape(out.shape))


def _flat_positions(counts: list[int] | tuple[int, ...], steps: list[int]) -> Positions:
    """All multiples of the steps, counted up to the counts, added up; in row-major order."""
    total = np.zeros(1, np.intp)
    for count, step in zip(counts, steps, strict=True):
        total = (total[:, np.newaxis] + np.arange(max(count, 0)) * step).ravel()
    return total
