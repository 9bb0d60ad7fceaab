"""Tensors that hold the values of another one, or what a Relu makes of them: looked at once.

1. An output of Identity, Reshape, Flatten, Squeeze, Unsqueeze or Transpose holds the values of its input,
   each sample the same, when its first dimension is declared as that of the input: by the same number or
   symbol. A Transpose has to leave it in its place.
2. An output of Relu holds those of its input with zeros for the negative ones, and its histograms are one
   side of the other's. Only where the input is looked at anyway.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from onnx import ModelProto, NodeProto, ValueInfoProto
from onnx.helper import get_attribute_value

_KEEP_ORDER = frozenset({"Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze"})


@dataclass(frozen=True, slots=True)
class Source:
    """Where the values of a tensor come from.

    Args:
        tensor: which holds them.
        rectified: whether negative ones are zeros.
    """

    tensor: str
    rectified: bool = False


def value_sources(model: ModelProto, tensors: Collection[str]) -> dict[str, Source]:
    """Where the values of some tensors come from; a tensor may be its own source.

    Args:
        model: its value infos say what is known of shapes.
        tensors: names.
    """
    graph = model.graph
    values = (*graph.input, *graph.value_info, *graph.output)
    firsts = {value.name: _first_dimension(value) for value in values}
    for tensor in graph.initializer:
        firsts.pop(tensor.name, None)
    sources: dict[str, Source] = {}
    for node in graph.node:
        if node.domain not in ("", "ai.onnx"):
            continue
        source = sources.get(node.input[0], Source(node.input[0])) if node.input else None
        if node.op_type == "Relu" and source and source.tensor in tensors:
            sources[node.output[0]] = Source(source.tensor, rectified=True)
        elif source and _keeps_samples(node, firsts):
            sources[node.output[0]] = source
    return {name: sources.get(name, Source(name)) for name in tensors}


def _keeps_samples(node: NodeProto, firsts: Mapping[str, int | str | None]) -> bool:
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
