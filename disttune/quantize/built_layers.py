"""Layers of a quantized model beside those of its float model: what each weight was, and what its codes mean.

A layer is found by the name of its op: a Conv, Gemm or MatMul that reads a DequantizeLinear of constants, or
the MatMulNBits that it has become.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto

from disttune.quantize.algorithms.layout import LayerLayout, layout_of
from disttune.quantize.editing import GraphEditor, attribute
from disttune.quantize.tensor_memory import tensor_values

Floats = NDArray[np.float64]
Array = NDArray[Any]
CORRECTED_TYPES = ("Conv", "Gemm", "MatMul")


@dataclass(frozen=True, eq=False)
class BuiltLayer:
    """A layer of a quantized model.

    Args:
        node: that computes it.
        maker: what has its codes: a DequantizeLinear, or the MatMulNBits itself.
        arrays: codes, scales and, if there are any, zero points.
        layout: of the float weight.
    """

    node: NodeProto
    maker: NodeProto
    arrays: tuple[Array, ...]
    layout: LayerLayout

    @property
    def is_packed(self) -> bool:
        return self.maker.op_type == "MatMulNBits"

    @cached_property
    def digest(self) -> str:
        """Over codes, scales and zero points."""
        data = b"".join(array.tobytes() for array in self.arrays)
        return hashlib.blake2b(data, digest_size=16).hexdigest()

    def quantized(self) -> Floats:
        """What the codes stand for, shape (n_parts, K, N)."""
        if self.is_packed:
            return unpacked(self.maker, *self.arrays)[np.newaxis]
        return self.layout.weight(dequantized(self.maker, *self.arrays))


class FloatLayers:
    """Layers of a float model.

    Args:
        model: it is kept and must not change any more.
    """

    def __init__(self, model: ModelProto):
        self._nodes = {node.name: node for node in model.graph.node}
        self._weights = {tensor.name: tensor for tensor in model.graph.initializer}

    def weight(self, op: str) -> Floats:
        """Shape (n_parts, K, N)."""
        weight = tensor_values(self._weights[self._nodes[op].input[1]])
        return layout_of(self._nodes[op], weight.shape).weight(weight)

    def alpha(self, op: str) -> float:
        """What a Gemm multiplies its product by; 1 for others."""
        node = self._nodes[op]
        return float(attribute(node, "alpha", 1.0)) if node.op_type == "Gemm" else 1.0

    def find(self, built: GraphEditor, ops: Iterable[str]) -> tuple[dict[str, BuiltLayer], dict[str, str]]:
        """Layers with constant codes by op, and the reasons why other ops have none."""
        nodes = {node.name: node for node in built.nodes}
        found: dict[str, BuiltLayer] = {}
        skipped: dict[str, str] = {}
        for op in ops:
            layer = self._layer(built, nodes, self._nodes[op])
            if isinstance(layer, BuiltLayer):
                found[op] = layer
            else:
                skipped[op] = layer
        return found, skipped

    def _layer(
        self, built: GraphEditor, nodes: Mapping[str, NodeProto], original: NodeProto
    ) -> BuiltLayer | str:
        node = built_node(nodes, original)
        if node is None:
            return "it was split into several nodes"
        data = built.maker(node.input[0])
        if data is not None and data.op_type in ("Mul", "Div") and data.name not in self._nodes:
            return "its inputs are divided by factors of their own"
        maker: NodeProto | None = node
        names = list(node.input[1:])
        if node.op_type != "MatMulNBits":
            if original.input[1] == node.input[1]:
                return "its weight is in float"
            maker = built.maker(node.input[1])
            names = list(maker.input) if maker is not None and maker.op_type == "DequantizeLinear" else []
        names = [name for name in names if name]
        if maker is None or not names or not all(built.is_initializer(name) for name in names):
            return "the codes of its weight are not constant"
        shape = tuple(self._weights[original.input[1]].dims)
        arrays = tuple(built.array(name) for name in names)
        return BuiltLayer(node, maker, arrays, layout_of(original, shape))


def correctable_nodes(model: ModelProto) -> dict[str, NodeProto]:
    """Nodes of a float model that can be corrected: with a constant weight and data that is not, in order."""
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    found = {}
    for node in model.graph.node:
        if node.op_type not in CORRECTED_TYPES or node.domain not in ("", "ai.onnx"):
            continue
        weight = weights.get(node.input[1])
        if weight is None or node.input[0] in weights or weight.data_type != TensorProto.FLOAT:
            continue
        if 0 not in weight.dims and (node.op_type != "MatMul" or len(weight.dims) == 2):
            found[node.name] = node
    return found


def built_node(nodes: Mapping[str, NodeProto], original: NodeProto) -> NodeProto | None:
    """What a node has become in a quantized model: itself, or a MatMulNBits."""
    names = (original.name, *(f"{original.name}_Q{bits}" for bits in (2, 4, 8)))
    found = (nodes[name] for name in names if name in nodes)
    return next((node for node in found if node.op_type in (original.op_type, "MatMulNBits")), None)


def dequantized(node: NodeProto, codes: Array, scale: Array, zero_point: Array | None = None) -> Floats:
    """What a DequantizeLinear of constants gives, per tensor, channel or group; shape of the codes."""
    steps = codes.astype(np.float64)
    axis, size = attribute(node, "axis", 1), attribute(node, "block_size", 0)

    def spread(values: Array) -> Floats:
        as_float = values.astype(np.float64)
        if size:
            return np.take(np.repeat(as_float, size, axis=axis), range(codes.shape[axis]), axis=axis)
        shape = [1] * codes.ndim
        if as_float.size > 1:
            shape[axis] = -1
        return as_float.reshape(shape)

    if zero_point is not None:
        steps = steps - spread(zero_point)
    return np.asarray(steps * spread(scale))


def unpacked(node: NodeProto, codes: Array, scale: Array, zero_point: Array | None = None) -> Floats:
    """The weight of a MatMulNBits, shape (K, N); the opposite of `builder.nbits_tensors`."""
    n_rows, n_columns, bits = (attribute(node, name, 0) for name in ("K", "N", "bits"))
    size, n_blocks = attribute(node, "block_size", 0), codes.shape[1]
    values = _unpacked_rows(codes.reshape(n_columns, -1), bits).reshape(n_columns, n_blocks, size)
    if zero_point is None:
        zeros = np.full((n_columns, n_blocks), 2.0 ** (bits - 1))
    elif zero_point.dtype == np.uint8:
        zeros = _unpacked_rows(zero_point.reshape(n_columns, -1), bits)[:, :n_blocks]
    else:
        zeros = zero_point.astype(np.float64).reshape(n_columns, n_blocks)
    steps = scale.astype(np.float64).reshape(n_columns, n_blocks, 1)
    return np.asarray(((values - zeros[:, :, np.newaxis]) * steps).reshape(n_columns, -1)[:, :n_rows].T)


def _unpacked_rows(packed: Array, bits: int) -> Floats:
    """Codes of rows of bytes, the low bits first."""
    per_byte = 8 // bits
    codes = np.empty((len(packed), packed.shape[1] * per_byte))
    for i in range(per_byte):
        codes[:, i::per_byte] = packed >> (i * bits) & (2**bits - 1)
    return codes
