"""Raise the opset of a model, also around ops that onnx's converter does not know.

Ops of other domains (com.microsoft), and onnxruntime's own in the default one, mean the same whatever the
opset: they are taken out while the rest is converted, and put back.
"""

from collections.abc import Collection

import onnx
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, version_converter

from disttune.quantize.tensor_memory import without_initializers
from disttune.quantize.topology import captured_names, default_opset, sort_nodes

_DEFAULT = ("", "ai.onnx")


def in_opset(model: ModelProto, opset: int) -> ModelProto:
    """The model in a later opset.

    Args:
        model: not changed; its large tensors may be empty.
        opset: of the default domain.
    Raises:
        Exception: whatever onnx's version converter raises.
    """
    version = default_opset(model)
    foreign = [node for node in model.graph.node if _is_foreign(node, version)]
    if not foreign:
        converted: ModelProto = version_converter.convert_version(model, opset)
        return converted
    converted = version_converter.convert_version(_without(model, foreign), opset)
    graph = converted.graph
    graph.node.extend(foreign)
    sort_nodes(graph)
    for field in ("input", "output"):
        values = getattr(graph, field)
        del values[:]
        values.extend(getattr(model.graph, field))
    converted.opset_import.extend(o for o in model.opset_import if o.domain not in _DEFAULT)
    converted.functions.extend(model.functions)
    return converted


def _is_foreign(node: NodeProto, version: int) -> bool:
    if node.domain not in _DEFAULT:
        return True
    try:
        onnx.defs.get_schema(node.op_type, version, "")
    except onnx.defs.SchemaError:
        return True
    return False


def _without(model: ModelProto, foreign: Collection[NodeProto]) -> ModelProto:
    """The model without some nodes: what they make is an input, and what they read an output."""
    rest = without_initializers(model)
    rest.graph.initializer.extend(model.graph.initializer)
    del rest.functions[:]
    graph = rest.graph
    known = {v.name: v for v in (*graph.value_info, *graph.output, *graph.input)}
    taken = {id(node) for node in foreign}
    kept = [node for node in model.graph.node if id(node) not in taken]
    inside = {name for node in kept for name in node.output if name}
    made = dict.fromkeys(name for node in foreign for name in node.output if name)
    read = dict.fromkeys(name for n in foreign for name in (*n.input, *captured_names(n)) if name in inside)
    wanted = [value.name for value in model.graph.output if value.name in inside]
    outputs = [_value(known, name) for name in dict.fromkeys([*wanted, *read])]
    inputs = [_value(known, name) for name in made]
    del graph.node[:], graph.output[:]
    graph.node.extend(kept)
    graph.input.extend(inputs)
    graph.output.extend(outputs)
    opsets = [opset for opset in rest.opset_import if opset.domain in _DEFAULT]
    del rest.opset_import[:]
    rest.opset_import.extend(opsets)
    return rest


def _value(known: dict[str, ValueInfoProto], name: str) -> ValueInfoProto:
    """What is known of a tensor; a float of any shape where that is nothing."""
    value = ValueInfoProto(name=name)
    value.type.tensor_type.elem_type = TensorProto.FLOAT
    if name in known and known[name].type.WhichOneof("value"):
        value.CopyFrom(known[name])
    return value
