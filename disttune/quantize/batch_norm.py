"""BatchNormalization into the linear op before or behind it, where onnxruntime's optimizer leaves it.

onnxruntime folds it into a Conv, a ConvTranspose, or a MatMul of rows before it. Here, for inference, with
constant statistics:
1. Into the op before, whose output nobody else reads: Gemm, MatMul + Add, and the others where onnxruntime
   did not; also through a Transpose that makes a MatMul's columns the channels.
2. Into every op behind: Conv without padding (at a border it would pad with zeros what is not zero), Gemm,
   MatMul of rows; also through a Flatten.

Source: Jacob et al. 2018 (arXiv:1712.05877), section 3.2, with inference statistics. onnxscript has rules for
case 1 of Gemm, Conv and ConvTranspose only, and does not look at `training_mode`.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto

from disttune.quantize.editing import GraphEditor, attribute
from disttune.quantize.linear import Linear, read_linear

Floats = NDArray[np.float64]


def fold_batch_norms(model: ModelProto) -> ModelProto:
    """The model without the BatchNormalizations that can be folded; itself where there is none."""
    if not any(node.op_type == "BatchNormalization" for node in model.graph.node):
        return model
    editor = GraphEditor(model)
    ranks = {
        value.name: len(value.type.tensor_type.shape.dim)
        for value in (*model.graph.value_info, *model.graph.input)
        if value.type.tensor_type.HasField("shape")
    }
    norms = [node for node in editor.nodes if node.op_type == "BatchNormalization"]
    folded = [_fold(editor, norm, ranks) for norm in norms]
    return editor.finish() if any(folded) else model


def _fold(editor: GraphEditor, norm: NodeProto, ranks: Mapping[str, int]) -> bool:
    affine = _affine(editor, norm)
    return affine is not None and (
        _fold_back(editor, norm, *affine) or _fold_forward(editor, norm, *affine, ranks)
    )


def _affine(editor: GraphEditor, norm: NodeProto) -> tuple[Floats, Floats] | None:
    """Factor and shift of each channel; None unless the norm is constant."""
    outputs = [name for name in norm.output if name]
    if attribute(norm, "training_mode", 0) or len(outputs) != 1 or len(norm.input) != 5:
        return None
    if not all(editor.is_constant(name) for name in norm.input[1:]):
        return None
    gamma, beta, mean, variance = (editor.array(name).astype(np.float64) for name in norm.input[1:])
    deviation = np.sqrt(variance + attribute(norm, "epsilon", 1e-5))
    if not deviation.all():
        return None
    factor = gamma / deviation
    return factor, beta - mean * factor


def _fold_back(editor: GraphEditor, norm: NodeProto, factor: Floats, shift: Floats) -> bool:
    """Case 1."""
    tensor, transpose = norm.input[0], None
    maker = editor.maker(tensor)
    if maker is not None and maker.op_type == "Transpose" and editor.only_reader(tensor) is norm:
        order = attribute(maker, "perm", ())
        if len(order) < 2 or order[1] != len(order) - 1:
            return False
        transpose, tensor = maker, maker.input[0]
    if editor.only_reader(tensor) is not (transpose or norm):
        return False
    linear = _linear_that_makes(editor, tensor)
    if linear is None or linear.n_outputs != factor.size:
        return False
    if (linear.node.op_type == "MatMul") != (transpose is not None):
        return False  # of a MatMul's output axis 1 is the columns only in rows: onnxruntime has folded that
    linear.scale_outputs(factor)
    linear.shift_outputs(shift)
    linear.store()
    last = transpose or linear.adder or linear.node
    output = norm.output[0]
    editor.remove(norm)
    editor.rename_output(last, output)
    return True


def _linear_that_makes(editor: GraphEditor, tensor: str) -> Linear | None:
    maker = editor.maker(tensor)
    if maker is not None and maker.op_type == "Add":
        makers = [editor.maker(name) for name in maker.input]
        maker = next((node for node in makers if node is not None and node.op_type == "MatMul"), None)
    if maker is None:
        return None
    linear = read_linear(editor, maker)
    return linear if isinstance(linear, Linear) and linear.output == tensor else None


def _fold_forward(
    editor: GraphEditor, norm: NodeProto, factor: Floats, shift: Floats, ranks: Mapping[str, int]
) -> bool:
    """Case 2."""
    source, output = norm.input[0], norm.output[0]
    tensor, flatten = output, editor.only_reader(output)
    if flatten is not None and flatten.op_type == "Flatten" and attribute(flatten, "axis", 1) == 1:
        tensor = flatten.output[0]
    else:
        flatten = None
    readers = editor.readers(tensor)
    if not readers or not editor.is_free(tensor) or not editor.is_free(output):
        return False
    linears = [read_linear(editor, reader) for reader in readers]
    is_rows = flatten is not None or ranks.get(source) == 2
    found = [x for x in linears if isinstance(x, Linear) and _takes_shift(x, tensor, is_rows)]
    if len(found) < len(readers) or any(x.n_inputs % factor.size for x in found):
        return False
    if flatten is None and any(x.n_inputs != factor.size for x in found):
        return False
    for linear in found:
        n_values = linear.n_inputs // factor.size  # a Flatten puts the values of a channel side by side
        linear.shift_outputs(linear.of_constant(np.repeat(shift, n_values)))
        linear.scale_inputs(np.repeat(factor, n_values))
        linear.store()
    for reader in [flatten] if flatten is not None else readers:
        editor.set_input(reader, 0, source)
    editor.remove(norm)
    return True


def _takes_shift(linear: Linear, tensor: str, is_rows: bool) -> bool:
    """Whether a shift of the channels of its data shifts each output by the same everywhere."""
    if list(linear.node.input).count(tensor) != 1 or linear.pads:
        return False
    return linear.node.op_type == "Conv" or is_rows
