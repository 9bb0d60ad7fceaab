"""A linear op with a constant weight, in one form for Conv, ConvTranspose, Gemm and MatMul.

The form: weight (groups, inputs of a group, outputs of a group, taps), float64, Gemm's alpha multiplied in;
bias (outputs,), Gemm's beta multiplied in. Inputs and outputs are counted group by group, as ONNX does.
1. A MatMul has the bias of the Add of a constant behind it, if nobody else reads what it writes.
2. Channels of images (Conv, ConvTranspose) are axis 1, those of rows (Gemm, MatMul) the last axis.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from disttune.quantize.editing import GraphEditor, attribute

Floats = NDArray[np.float64]
IMAGE_TYPES = ("Conv", "ConvTranspose")
LINEAR_TYPES = (*IMAGE_TYPES, "Gemm", "MatMul")


@dataclass(eq=False)
class Linear:
    """A linear op of a graph; made by `read_linear`, written back by `store`.

    Args:
        editor: of the graph.
        node: the op.
        adder: the Add of rule 1.
        weight, bias: in the form above; the bias is None where there is none.
    """

    editor: GraphEditor
    node: NodeProto
    adder: NodeProto | None
    weight: Floats
    bias: Floats | None

    @property
    def is_image(self) -> bool:
        """Rule 2."""
        return self.node.op_type in IMAGE_TYPES

    @property
    def output(self) -> str:
        """What the op writes, its bias added."""
        return str((self.adder or self.node).output[0])

    @property
    def n_inputs(self) -> int:
        return int(self.weight.shape[0] * self.weight.shape[1])

    @property
    def n_outputs(self) -> int:
        return int(self.weight.shape[0] * self.weight.shape[2])

    @property
    def is_depthwise(self) -> bool:
        """Whether every output comes from one input of its own."""
        return self.is_image and self.weight.shape[0] > 1 and self.weight.shape[1:3] == (1, 1)

    @property
    def pads(self) -> bool:
        """Whether some outputs come from fewer inputs than others, at the borders."""
        if self.node.op_type == "Conv":
            is_valid = attribute(self.node, "auto_pad", "NOTSET") in ("NOTSET", "VALID")
            return not is_valid or any(attribute(self.node, "pads", ()))
        return self.node.op_type == "ConvTranspose"

    def input_max(self) -> Floats:
        """Largest magnitude of the weights that an input is multiplied by, shape (n_inputs,)."""
        return np.asarray(np.abs(self.weight).max(axis=(2, 3), initial=0).reshape(-1))

    def output_max(self) -> Floats:
        """Largest magnitude of the weights that make an output, shape (n_outputs,)."""
        return np.asarray(np.abs(self.weight).max(axis=(1, 3), initial=0).reshape(-1))

    def scale_inputs(self, factor: Floats) -> None:
        """Multiply the weights of each input, shape (n_inputs,)."""
        n_groups, n_inputs = self.weight.shape[:2]
        self.weight = self.weight * factor.reshape(n_groups, n_inputs, 1, 1)

    def scale_outputs(self, factor: Floats) -> None:
        """Multiply each output, shape (n_outputs,)."""
        n_groups, _, n_outputs, _ = self.weight.shape
        self.weight = self.weight * factor.reshape(n_groups, 1, n_outputs, 1)
        if self.bias is not None:
            self.bias = self.bias * factor

    def of_constant(self, values: Floats) -> Floats:
        """Outputs, without the bias, where every input has its own value everywhere, shape (n_outputs,)."""
        n_groups, n_inputs = self.weight.shape[:2]
        grouped = values.reshape(n_groups, n_inputs)
        return np.asarray(np.einsum("gi,gio->go", grouped, self.weight.sum(axis=3)).reshape(-1))

    def shift_outputs(self, change: Floats) -> None:
        """Add to each output, shape (n_outputs,); makes a bias where there is none."""
        self.bias = change if self.bias is None else self.bias + change

    def store(self) -> None:
        """Write weight and bias to the graph; a constant that other ops read stays theirs."""
        shape = self.editor.shape(self.node.input[1])
        alpha = attribute(self.node, "alpha", 1.0) if self.node.op_type == "Gemm" else 1.0
        self.editor.set_constant(self.node, 1, _in_layout(self.node, self.weight / alpha, shape))
        if self.bias is not None:
            self._store_bias(self.bias)

    def _store_bias(self, bias: Floats) -> None:
        if self.node.op_type == "MatMul":
            if self.adder is None:
                name = self.editor.add_constant(f"{self.node.name}_bias", bias.astype(np.float32))
                self.adder = self.editor.insert_behind(self.node, "Add", name, f"{self.node.name}_add_bias")
            else:
                position = _constant_position(self.editor, self.adder)
                shape = self.editor.shape(self.adder.input[position])
                is_full = math.prod(shape) == bias.size
                self.editor.set_constant(self.adder, position, bias.reshape(shape if is_full else -1))
            return
        beta = attribute(self.node, "beta", 1.0) if self.node.op_type == "Gemm" else 1.0
        if beta == 0:
            _set_float(self.node, "beta", 1.0)
        self.editor.set_constant(self.node, 2, bias / (beta or 1.0))


def read_linear(editor: GraphEditor, node: NodeProto) -> Linear | str:
    """A node as a linear op, or the reason why it is none that can be changed."""
    if node.op_type not in LINEAR_TYPES or node.domain not in ("", "ai.onnx"):
        return f"{node.op_type} is no linear op"
    if not editor.is_constant(node.input[1]) or editor.is_constant(node.input[0]):
        return "its weight is not constant"
    shape = editor.shape(node.input[1])
    if node.op_type == "MatMul" and len(shape) != 2:
        return f"its weight has {len(shape)} dimensions"
    if 0 in shape:
        return "its weight is empty"
    alpha = 1.0
    if node.op_type == "Gemm":
        alpha = attribute(node, "alpha", 1.0)
        if attribute(node, "transA", 0) or alpha == 0:
            return "its data is transposed, or its alpha is 0"
    weight = _from_layout(node, editor.array(node.input[1]).astype(np.float64)) * alpha
    if not np.isfinite(weight).all():
        return "its weight holds NaN or infinity"
    linear = Linear(editor, node, None, weight, None)
    return _read_bias(linear)


def _read_bias(linear: Linear) -> Linear | str:
    editor, node = linear.editor, linear.node
    if node.op_type == "MatMul":
        adder = editor.only_reader(node.output[0])
        if adder is not None and adder.op_type == "Add":
            position = _constant_position(editor, adder)
            bias = _per_output(linear, adder.input[position]) if position >= 0 else None
            if bias is not None:
                linear.adder, linear.bias = adder, bias
        return linear
    name = node.input[2] if len(node.input) > 2 else ""
    if not name:
        return linear
    bias = _per_output(linear, name)
    if bias is None:
        return "its bias is not constant, or not one value for each channel"
    linear.bias = bias * (attribute(node, "beta", 1.0) if node.op_type == "Gemm" else 1.0)
    return linear


def _per_output(linear: Linear, name: str) -> Floats | None:
    """A constant as one value for each output."""
    editor = linear.editor
    if not editor.is_constant(name):
        return None
    shape, n = editor.shape(name), linear.n_outputs
    if math.prod(shape) != 1 and (not shape or shape[-1] != n or math.prod(shape) != n):
        return None
    values = editor.array(name).astype(np.float64).reshape(-1)
    return np.broadcast_to(values, n).copy() if np.isfinite(values).all() else None


def _constant_position(editor: GraphEditor, adder: NodeProto) -> int:
    """Which input of an Add is a float32 constant; -1 when none is, or both are."""
    found = [i for i, name in enumerate(adder.input) if editor.is_constant(name)]
    return found[0] if len(found) == 1 else -1


def _from_layout(node: NodeProto, array: Floats) -> Floats:
    if node.op_type == "MatMul":
        return array[None, :, :, None]
    if node.op_type == "Gemm":
        return (array.T if attribute(node, "transB", 0) else array)[None, :, :, None]
    n_groups = attribute(node, "group", 1)
    parts = array.reshape(n_groups, array.shape[0] // n_groups, array.shape[1], -1)
    return parts if node.op_type == "ConvTranspose" else parts.swapaxes(1, 2)


def _in_layout(node: NodeProto, weight: Floats, shape: tuple[int, ...]) -> Floats:
    if node.op_type == "ConvTranspose":
        return weight.reshape(shape)
    turned = node.op_type == "Conv" or (node.op_type == "Gemm" and attribute(node, "transB", 0))
    return (weight.swapaxes(1, 2) if turned else weight).reshape(shape)


def _set_float(node: NodeProto, name: str, value: float) -> None:
    for found in node.attribute:
        if found.name == name:
            found.f = value
