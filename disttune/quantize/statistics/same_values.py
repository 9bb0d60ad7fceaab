"""Tensors that hold the values of another one, each sample the same: looked at once.

An output of Identity, Reshape, Flatten, Squeeze, Unsqueeze or Transpose does when its first dimension is
declared as that of the input: by the same number or symbol. A Transpose has to leave it in its place.
"""

from collections.abc import Mapping

from onnx import ModelProto, NodeProto, ValueInfoProto
from onnx.helper import get_attribute_value

_KEEP_ORDER = frozenset({"Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze"})


def value_sources(model: ModelProto) -> dict[str, str]:
    """For each such tensor the one that it all comes from.

    Args:
        model: its value infos say what is known of shapes.
    """
    graph = model.graph
    values = (*graph.input, *graph.value_info, *graph.output)
    firsts = {value.name: _first_dimension(value) for value in values}
    for tensor in graph.initializer:
        firsts.pop(tensor.name, None)
    sources: dict[str, str] = {}
    for node in graph.node:
        if _keeps_samples(node, firsts):
            sources[node.output[0]] = sources.get(node.input[0], node.input[0])
    return sources


def _keeps_samples(node: NodeProto, firsts: Mapping[str, int | str | None]) -> bool:
    if node.domain not in ("", "ai.onnx"):
        return False
    if node.op_type == "Transpose":
        order = next((get_attribute_value(a) for a in node.attribute if a.name == "perm"), None)
        return order is not None and len(order) > 0 and order[0] == 0 and node.input[0] in firsts
    first = firsts.get(node.input[0]) if node.op_type in _KEEP_ORDER else None
    return first is not None and firsts.get(node.output[0]) == first


def _first_dimension(value: ValueInfoProto) -> int | str | None:
    """None where nothing is known."""
    dimensions = value.type.tensor_type.shape.dim
    if not dimensions:
        return None
    first = dimensions[0]
    return int(first.dim_value) if first.HasField("dim_value") else str(first.dim_param) or None
