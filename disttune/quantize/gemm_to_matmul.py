"""Recipe `gemm_to_matmul`: a Gemm with a constant weight as MatMul and Add, which compute the same.

The MatMul takes the Gemm's name. Its weight is the Gemm's, transposed where that is, times alpha; the Add
has the bias times beta. Left as it is: a Gemm that transposes its data, whose weight is no constant, or
whose bias is none while beta is not 1.

Source: INC 2.6, recipe of the ONNX Runtime adaptor (there on by default).
"""

from collections.abc import Mapping

import numpy as np
from onnx import ModelProto, NodeProto, ValueInfoProto

from disttune.quantize.editing import GraphEditor, attribute


def split_gemms(model: ModelProto) -> ModelProto:
    """The model with every Gemm that can be split as MatMul and Add; itself where there is none."""
    gemms = [node for node in model.graph.node if node.op_type == "Gemm"]
    if not gemms:
        return model
    editor = GraphEditor(model)
    splits = [_split(editor, node) for node in list(editor.nodes) if node.op_type == "Gemm"]
    products = dict(filter(None, splits))
    return _with_types(editor.finish(), products) if products else model


def _split(editor: GraphEditor, gemm: NodeProto) -> tuple[str, str] | None:
    """Names of the product and of the output; None when the Gemm is left as it is."""
    alpha, beta = attribute(gemm, "alpha", 1.0), attribute(gemm, "beta", 1.0)
    data, weight, *rest = gemm.input
    bias = rest[0] if rest else ""
    if attribute(gemm, "transA", 0) or not editor.is_constant(weight):
        return None
    if bias and beta != 1 and not editor.is_constant(bias):
        return None
    values = editor.array(weight)
    values = np.ascontiguousarray(values.T if attribute(gemm, "transB", 0) else values) * np.float32(alpha)
    output, name = gemm.output[0], gemm.name
    editor.set_constant(gemm, 1, values)
    weight = gemm.input[1]
    if bias and beta != 1:
        editor.set_constant(gemm, 2, editor.array(bias) * np.float32(beta))
        bias = gemm.input[2]
    editor.remove(gemm)
    product = editor.new_name(f"{output}_product") if bias else output
    editor.add("MatMul", [data, weight], product, name)
    if bias:
        editor.add("Add", [product, bias], output, editor.new_name(f"{name}_bias"))
    return product, output


def _with_types(model: ModelProto, products: Mapping[str, str]) -> ModelProto:
    """Products have the type and the shape of what the Gemm made."""
    graph = model.graph
    known = {value.name: value for value in (*graph.value_info, *graph.output)}
    for product, output in products.items():
        if product != output and output in known:
            value = ValueInfoProto()
            value.CopyFrom(known[output])
            value.name = product
            graph.value_info.append(value)
    return model
