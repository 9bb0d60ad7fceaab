"""A positive factor for each channel of an activation, put into the ops that make it.

Each op on the way back is read by nobody else. Where the walk ends:
1. MatMul (with the Add behind it), Gemm, Conv, ConvTranspose: into outputs of weight and bias;
2. LayerNormalization, RMSNormalization, BatchNormalization and onnxruntime's SkipLayerNormalization and
   simplified ones: into scale and bias;
3. Mul by a constant: into the constant; of two activations: into one of them, the second if both can.
It goes on through Identity, Relu, LeakyRelu, PRelu, and Add of a constant (which is multiplied too).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import NodeProto

from disttune.quantize.editing import GraphEditor, attribute
from disttune.quantize.linear import LINEAR_TYPES, Floats, Linear, read_linear

Change = Callable[[], None]
# Positions of scale and bias among a norm's inputs.
_NORMS = {
    "LayerNormalization": (1, 2),
    "RMSNormalization": (1,),
    "SimplifiedLayerNormalization": (1,),
    "BatchNormalization": (1, 2),
    "SkipLayerNormalization": (2, 3),
    "SkipSimplifiedLayerNormalization": (2,),
}
_PASSED = ("Identity", "Relu", "LeakyRelu", "PRelu")


def fold_factor(editor: GraphEditor, tensor: str, factor: Floats) -> str | None:
    """Multiply an activation by a factor for each channel without a new op.

    Args:
        tensor: whose readers want it multiplied, all of them.
        factor: > 0, shape (n_channels,) for rows, (n_channels, 1, 1) for images of two dimensions.
    Returns:
        Name of the op that took it, or None where none can; then nothing was changed.
    """
    found = _Folding(editor, factor).find(tensor)
    if found is None:
        return None
    name, changes = found
    for change in changes:
        change()
    return name


class _Folding:
    def __init__(self, editor: GraphEditor, factor: Floats):
        self.editor = editor
        self.is_image = factor.ndim > 1
        self.shaped = factor
        self.factor = factor.reshape(-1)

    def find(self, tensor: str) -> tuple[str, list[Change]] | None:
        """The op that can take the factor, and what has to be changed for it."""
        node = self.editor.maker(tensor)
        if node is None or not self.editor.is_free(tensor) or tensor != node.output[0]:
            return None
        if node.op_type in LINEAR_TYPES:
            return self._into_linear(node, tensor)
        if node.op_type in _NORMS:
            return self._into_norm(node)
        if node.op_type in _PASSED:
            return self._through(node.input[0])
        if node.op_type in ("Add", "Mul"):
            return self._at_constant(node, tensor)
        return None

    def _through(self, tensor: str) -> tuple[str, list[Change]] | None:
        return self.find(tensor) if self.editor.only_reader(tensor) is not None else None

    def _into_linear(self, node: NodeProto, tensor: str) -> tuple[str, list[Change]] | None:
        linear = read_linear(self.editor, node)
        if not isinstance(linear, Linear) or linear.output != tensor:
            return None
        if linear.n_outputs != self.factor.size or linear.is_image != self.is_image:
            return None

        def change() -> None:
            linear.scale_outputs(self.factor)
            linear.store()

        return node.name, [change]

    def _into_norm(self, node: NodeProto) -> tuple[str, list[Change]] | None:
        positions = [i for i in _NORMS[node.op_type] if i < len(node.input) and node.input[i]]
        if (node.op_type == "BatchNormalization") != self.is_image or not positions:
            return None
        if attribute(node, "training_mode", 0):
            return None
        shapes = {self._shape(node.input[i]) for i in positions}
        if shapes != {(self.factor.size,)}:
            return None  # not constant, or over several axes
        return node.name, [self._multiply(node, i, self.factor) for i in positions]

    def _at_constant(self, node: NodeProto, tensor: str) -> tuple[str, list[Change]] | None:
        makers = [self.editor.maker(name) for name in node.input] if node.op_type == "Add" else []
        for maker in makers:  # the bias of a MatMul belongs to it
            if maker is not None and maker.op_type == "MatMul":
                found = self._into_linear(maker, tensor)
                if found is not None:
                    return found
        constants = [i for i, name in enumerate(node.input) if self.editor.is_constant(name)]
        if not constants:
            return self._into_one(node) if node.op_type == "Mul" else None
        if len(constants) > 1:
            return None
        position = constants[0]
        change = self._multiply(node, position, self.shaped)
        if node.op_type == "Mul":
            return node.name, [change]
        rest = self._through(node.input[1 - position])
        return None if rest is None else (rest[0], [*rest[1], change])

    def _into_one(self, node: NodeProto) -> tuple[str, list[Change]] | None:
        """Rule 3, two activations."""
        if node.input[0] == node.input[1]:
            return None
        return self._through(node.input[1]) or self._through(node.input[0])

    def _multiply(self, node: NodeProto, position: int, factor: Floats) -> Change:
        values = self.editor.array(node.input[position]).astype(np.float64) * factor
        return lambda: self.editor.set_constant(node, position, values)

    def _shape(self, constant: str) -> tuple[int, ...] | None:
        return self.editor.shape(constant) if self.editor.is_constant(constant) else None
