"""FusedMatMul with a constant matrix as a plain MatMul, which every method and form of weights knows.

onnxruntime fuses scales and transposes into it; the matrix takes them over here: turned over where transB
is, times alpha. One that transposes its data, or whose weight is no constant matrix, stays as it is.
"""

import numpy as np
from onnx import ModelProto, NodeProto

from disttune.quantize.builder.writer import MS_DOMAIN
from disttune.quantize.editing import GraphEditor, attribute

_OF_DATA = ("transA", "transBatchA", "transBatchB")


def with_plain_matmuls(model: ModelProto) -> ModelProto:
    """The model with every such node replaced; itself where there is none."""
    if not any(_is_fused(node) for node in model.graph.node):
        return model
    editor = GraphEditor(model)
    fused = [node for node in list(editor.nodes) if _is_fused(node) and _can_be_plain(editor, node)]
    for node in fused:
        data, weight = node.input
        values = editor.array(weight)
        factor = np.float32(attribute(node, "alpha", 1.0))
        turned = values.T if attribute(node, "transB", 0) else values
        editor.retype(node, "MatMul", [data, weight])
        if turned is not values or factor != 1:
            editor.set_constant(node, 1, np.ascontiguousarray(turned) * factor)
    return editor.finish() if fused else model


def _is_fused(node: NodeProto) -> bool:
    return node.op_type == "FusedMatMul" and node.domain == MS_DOMAIN


def _can_be_plain(editor: GraphEditor, node: NodeProto) -> bool:
    plain = not any(attribute(node, name, 0) for name in _OF_DATA)
    return plain and editor.is_constant(node.input[1]) and len(editor.shape(node.input[1])) == 2
