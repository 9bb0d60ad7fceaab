"""How many nodes of a model compute on integer codes."""

from collections.abc import Mapping
from types import MappingProxyType

from onnx import ModelProto, TensorProto

from disttune.quantize.graph import is_quantized_type

_PAIR_TYPES = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear")


def count_quantized(model: ModelProto, beside: Mapping[str, TensorProto] = MappingProxyType({})) -> int:
    """Number of nodes that a built model quantizes.

    A node counts when
    1. it is an integer operator (QLinearConv, MatMulInteger ...); or
    2. what it gives goes into DequantizeLinear (Gather of codes), or one of its first two inputs is the
       DequantizeLinear of a constant (a weight alone on codes); or
    3. all that it computes with comes from DequantizeLinear, and all that it gives goes to
       QuantizeLinear. So a float op between two quantized ones counts as well: onnxruntime computes it
       on codes if it can.
    Nodes inside subgraphs are never quantized.

    Args:
        model: as built.
        beside: initializers that it lacks, by name.
    """
    graph = model.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer} | dict(beside)
    constants = set(tensors)
    floats = {name for name, tensor in tensors.items() if tensor.data_type == TensorProto.FLOAT}
    for value in (*graph.input, *graph.value_info):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            floats.add(value.name)
    # Q -> DQ behind a float weight (recipe add_qdq_pair_to_weight) makes a constant as well.
    constants |= {
        n.output[0] for n in graph.node if n.op_type == "QuantizeLinear" and n.input[0] in constants
    }
    dequantized = {
        n.output[0]: n.input[0] in constants for n in graph.node if n.op_type == "DequantizeLinear"
    }
    to_codes = {node.input[0] for node in graph.node if node.op_type == "QuantizeLinear"}
    to_codes -= {name for node in graph.node if node.op_type != "QuantizeLinear" for name in node.input}
    to_codes -= {value.name for value in graph.output}
    codes = {node.input[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    count = 0
    for node in graph.node:
        if node.op_type in _PAIR_TYPES:
            continue
        data = [name for name in node.input[:2] if name in dequantized or name in floats]
        on_codes = bool(data) and all(name in dequantized for name in data)
        with_weight = any(dequantized.get(name, False) for name in data)
        ends_in_codes = all(name in to_codes for name in node.output if name)
        count += (
            is_quantized_type(node.op_type)
            or not codes.isdisjoint(node.output)
            or with_weight
            or (on_codes and ends_in_codes)
        )
    return count
