"""Add to the outputs of linear ops in a quantized model, through their biases.

1. Conv and Gemm: into the bias; int32 codes are moved by so many steps, a float bias gets other values, and
   an op without one gets a float bias (which onnxruntime turns into int32 itself).
2. MatMul and MatMulNBits: into the constant of the Add behind it, also where Q and DQ stand between;
   otherwise an Add is put right behind it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from disttune.quantize.builder.writer import Blueprint
from disttune.quantize.editing import GraphEditor, attribute

Floats = NDArray[np.float64]
_INT32_MAX = 2**31 - 1


def shift_outputs(blueprint: Blueprint, shifts: Mapping[str, Floats]) -> tuple[Blueprint, dict[str, str]]:
    """The model with shifted outputs, and the ops whose outputs could not be, with the reason.

    Args:
        blueprint: of a quantized model; it is not changed.
        shifts: by name of Conv, Gemm, MatMul and MatMulNBits nodes; in units of the output, (n_outputs,).
    """
    editor = GraphEditor(blueprint.skeleton, blueprint.tensors)
    nodes = {node.name: node for node in editor.nodes}
    skipped = {}
    for op, shift in shifts.items():
        reason = _shift(editor, nodes[op], shift) if op in nodes else "the model has no such node"
        if reason:
            skipped[op] = reason
    return blueprint.edited(editor), skipped


def _shift(editor: GraphEditor, node: NodeProto, shift: Floats) -> str:
    """Rules 1 and 2; gives the reason when it cannot be done."""
    if not np.isfinite(shift).all():
        return "the shift is not finite"
    if node.op_type in ("MatMul", "MatMulNBits"):
        _shift_matmul(editor, node, shift)
        return ""
    if node.op_type not in ("Conv", "Gemm"):
        return f"a {node.op_type} has no bias that could take it"
    beta = attribute(node, "beta", 1.0) if node.op_type == "Gemm" else 1.0
    if beta == 0:
        return "its beta is 0"
    name = node.input[2] if len(node.input) > 2 else ""
    if not name:
        editor.set_constant(node, 2, shift / beta)
        return ""
    if editor.is_constant(name):
        return _shift_constant(editor, node, 2, shift / beta)
    return _shift_codes(editor, node, shift / beta)


def _shift_constant(editor: GraphEditor, node: NodeProto, position: int, shift: Floats) -> str:
    values = editor.array(node.input[position]).astype(np.float64)
    if values.size not in (1, shift.size):
        return "its bias is not one value for each channel"
    shape = values.shape if values.size == shift.size else shift.shape
    editor.set_constant(node, position, (values.reshape(-1) + shift).reshape(shape))
    return ""


def _shift_codes(editor: GraphEditor, node: NodeProto, shift: Floats) -> str:
    """int32 codes with a DequantizeLinear, which may be that of other ops as well."""
    maker = editor.maker(node.input[2])
    if maker is None or maker.op_type != "DequantizeLinear" or not editor.is_initializer(maker.input[0]):
        return "its bias is not constant"
    codes, scale = editor.array(maker.input[0]), editor.array(maker.input[1])
    if codes.dtype != np.int32 or codes.size != shift.size:
        return "its bias is not one int32 code for each channel"
    moved = codes.astype(np.float64).reshape(-1) + np.rint(shift / scale.reshape(-1))
    if (np.abs(moved) > _INT32_MAX).any():
        return "its bias does not fit int32"
    name = editor.add_constant(f"{maker.input[0]}_corrected", moved.astype(np.int32).reshape(codes.shape))
    output = editor.new_name(f"{maker.output[0]}_corrected")
    attributes = {found.name: attribute(maker, found.name, None) for found in maker.attribute}
    editor.add(
        "DequantizeLinear", [name, *maker.input[1:]], output, f"{maker.name}_corrected", attributes
    ).domain = maker.domain
    editor.set_input(node, 2, output)
    if not editor.readers(maker.output[0]) and editor.is_free(maker.output[0]):
        editor.remove(maker)
    return ""


def _shift_matmul(editor: GraphEditor, node: NodeProto, shift: Floats) -> None:
    adder = _next_add(editor, node.output[0])
    if adder is not None:
        constants = [i for i, name in enumerate(adder.input) if editor.is_constant(name)]
        if len(constants) == 1:
            shape = editor.shape(adder.input[constants[0]])
            fits = math.prod(shape) == shift.size and shape[-1:] == shift.shape
            if (fits or math.prod(shape) == 1) and not _shift_constant(editor, adder, constants[0], shift):
                return
    name = editor.add_constant(f"{node.name}_shift", shift.astype(np.float32))
    editor.insert_behind(node, "Add", name, f"{node.name}_add_shift")


def _next_add(editor: GraphEditor, tensor: str) -> NodeProto | None:
    """The Add that alone reads a tensor, itself or behind Q and DQ."""
    for op_type in ("QuantizeLinear", "DequantizeLinear"):
        reader = editor.only_reader(tensor)
        if reader is not None and reader.op_type == op_type and reader.input[0] == tensor:
            tensor = reader.output[0]
    reader = editor.only_reader(tensor)
    return reader if reader is not None and reader.op_type == "Add" else None
