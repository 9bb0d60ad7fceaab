"""Where a layer's matrix lies in its op's weight, and codes and scales on their way back to ONNX.

| op | weight in ONNX | parts | K | N |
| --- | --- | --- | --- | --- |
| MatMul | (K, N) | 1 | rows | columns |
| Gemm | (K, N), or (N, K) with transB | 1 | inputs | outputs |
| Conv | (C_out, C_in / g, kernel ...) | g | C_in / g x kernel | C_out / g |
| ConvTranspose | (C_in, C_out / g, kernel ...) | g | C_in / g | C_out / g x kernel |

A depth-wise Conv is one with g = C_in. A ConvTranspose is Y = X W for each pixel of its input, before the
products that fall on the same pixel of the output are added: the loss that an algorithm sees is the sum over
these products, which is that of the output where none overlap (stride >= kernel).

alpha and beta of a Gemm, and biases, stay outside.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from disttune.config.errors import TrialError
from disttune.config.schemes import FLOAT8_DTYPES, Scheme
from disttune.quantize.algorithms.layer import Floats, LayerSolution
from disttune.quantize.summary import channel_axis, group_axis, int_attribute
from disttune.quantize.weights import HELD_AS, QuantizedWeight, code_range_of

Array = NDArray[Any]
LINEAR_TYPES = frozenset({"MatMul", "Gemm", "Conv", "ConvTranspose"})


@dataclass(frozen=True, slots=True)
class LayerLayout:
    """How the weight of one op is laid out.

    Args:
        name: of the op, for messages.
        shape: of the weight in ONNX.
        n_parts, n_inputs, n_outputs: of the layer: (parts, K, N).
        outputs_first: whether a part is held as (N, K).
        channel_axis: of the weight; with a scale for each channel.
        group_axis: of the weight; groups run along it.
    """

    name: str
    shape: tuple[int, ...]
    n_parts: int
    n_inputs: int
    n_outputs: int
    outputs_first: bool
    channel_axis: int
    group_axis: int

    def to_layer(self, weight: Array) -> Array:
        """The weight, or any array of its shape, as (n_parts, K, N); a view where that is possible."""
        if self.outputs_first:
            return weight.reshape(self.n_parts, self.n_outputs, self.n_inputs).swapaxes(1, 2)
        return weight.reshape(self.n_parts, self.n_inputs, self.n_outputs)

    def weight(self, weight: Array) -> Floats:
        """The weight as algorithms take it: float64, shape (n_parts, K, N)."""
        return np.ascontiguousarray(self.to_layer(weight), np.float64)

    def from_layer(self, values: Array) -> Array:
        """The opposite of `to_layer`: values of shape (n_parts, K, N) in the weight's own shape."""
        ordered = values.swapaxes(1, 2) if self.outputs_first else values
        return np.ascontiguousarray(ordered).reshape(self.shape)

    def parameters(self, values: Array, scheme: Scheme) -> Array:
        """Scales or zero points of a layer as ONNX has them.

        Args:
            values: shape (1, 1, 1), (n_parts, 1, N) or (n_parts, n_groups, N), by the scheme.
            scheme: of the weight.
        Returns:
            Shape () per tensor, (n_channels,) per channel, that of the weight with the group axis divided
            by the size of a group per group.
        Raises:
            TrialError: ONNX has one value where the layer has several that differ.
        """
        if scheme.granularity == "per_tensor":
            return values.reshape(())
        if scheme.granularity == "per_channel":
            spread = self._spread(values, self.n_inputs)
            rows = np.moveaxis(spread, self.channel_axis, 0).reshape(self.shape[self.channel_axis], -1)
            found, same = rows[:, 0], bool((rows == rows[:, :1]).all())
        elif len(self.shape) == 2:  # of a matrix every group has one scale
            return np.ascontiguousarray(values[0].T if self.outputs_first else values[0])
        else:
            size = scheme.group_size or self.n_inputs
            spread, axis = self._spread(values, size), self.group_axis
            found = np.take(spread, range(0, self.shape[axis], size), axis=axis)
            again = np.take(np.repeat(found, size, axis=axis), range(self.shape[axis]), axis=axis)
            same = np.array_equal(spread, again)
        if not same:
            raise TrialError(
                f"op {self.name}: a weight of shape {self.shape} in {self.n_parts} parts has no place for "
                f"the scales of {scheme}. Use per_tensor for this op, or a method that needs no layers."
            )
        return found.copy()

    def quantized(self, solution: LayerSolution, scheme: Scheme) -> QuantizedWeight:
        """A solution in the weight's own layout.

        Raises:
            TrialError: as `parameters`; or the scheme has no integer codes.
        """
        if scheme.dtype in FLOAT8_DTYPES:
            raise TrialError(f"op {self.name}: {scheme} has no integer codes for an algorithm to find")
        grouped = scheme.granularity == "per_group"
        axis = {"per_channel": self.channel_axis, "per_group": self.group_axis}.get(scheme.granularity)
        held_as = HELD_AS[scheme.dtype]
        return QuantizedWeight(
            codes=self.from_layer(solution.codes.astype(held_as)),
            scale=self.parameters(solution.scale, scheme).astype(np.float32),
            zero_point=self.parameters(solution.zero_point, scheme).astype(
                held_as if np.issubdtype(solution.zero_point.dtype, np.integer) else np.float32
            ),
            dtype=scheme.dtype,
            axis=axis,
            block_size=scheme.group_size if grouped else None,
            code_range=code_range_of(scheme),
        )

    def _spread(self, values: Array, group_size: int) -> Array:
        """Parameters for each value of the weight, in its shape."""
        each_row = np.repeat(values, group_size, axis=1)[:, : self.n_inputs]
        return self.from_layer(np.broadcast_to(each_row, (self.n_parts, self.n_inputs, self.n_outputs)))


def layout_of(node: NodeProto, shape: tuple[int, ...]) -> LayerLayout:
    """Layout of a node's weight.

    Args:
        node: of a type in `LINEAR_TYPES`.
        shape: of its weight.
    Raises:
        TrialError: the op has no such layer; names it and the cause.
    """
    if node.op_type not in LINEAR_TYPES:
        raise TrialError(
            f"op {node.name}: a {node.op_type} is no linear layer. "
            f"Those are {', '.join(sorted(LINEAR_TYPES))}."
        )
    if 0 in shape:
        raise TrialError(f"op {node.name}: the weight has shape {shape}: it is empty")
    if node.op_type in ("MatMul", "Gemm"):
        return _of_matrix(node, shape)
    n_groups, n_kernel = int_attribute(node, "group", 1), math.prod(shape[2:])
    if node.op_type == "Conv":
        sizes = (n_groups, shape[1] * n_kernel, shape[0] // n_groups)
    else:
        sizes = (n_groups, shape[0] // n_groups, shape[1] * n_kernel)
    return _layout(node, shape, sizes, outputs_first=node.op_type == "Conv")


def _of_matrix(node: NodeProto, shape: tuple[int, ...]) -> LayerLayout:
    if len(shape) != 2:
        raise TrialError(
            f"op {node.name}: its weight has shape {shape}, and a layer's is a matrix of two dimensions. "
            "Use a method that needs no layers for this op."
        )
    transposed = node.op_type == "Gemm" and int_attribute(node, "transB", 0) != 0
    n_inputs, n_outputs = reversed(shape) if transposed else shape
    return _layout(node, shape, (1, n_inputs, n_outputs), outputs_first=transposed)


def _layout(
    node: NodeProto, shape: tuple[int, ...], sizes: tuple[int, int, int], *, outputs_first: bool
) -> LayerLayout:
    channels, groups = channel_axis(node, len(shape)), group_axis(node, len(shape))
    assert channels is not None
    assert groups is not None
    return LayerLayout(node.name, shape, *sizes, outputs_first, channels, groups)
