"""Types and sizes of a model's tensors, by onnx's shape inference on a copy without its weights."""

import math
from collections.abc import Mapping
from typing import Any

import onnx
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, ValueInfoProto
from onnx.helper import make_tensor_value_info, tensor_dtype_to_np_dtype

from disttune.quantize.tensor_memory import without_large_tensors

Array = NDArray[Any]


def element_types(model: ModelProto) -> dict[str, int]:
    """Type of every plain tensor that has one: declared, or inferred."""
    made = {name for node in model.graph.node for name in node.output if name}
    values = _declared(model.graph)
    if not made <= values.keys():
        values = _inferred(without_large_tensors(model))
    return {name: value.type.tensor_type.elem_type for name, value in values.items()}


def tensor_bytes(model: ModelProto, feed: Mapping[str, Array]) -> dict[str, int]:
    """How much memory each tensor takes when a feed is run.

    An estimate: a tensor whose shape cannot be inferred counts as much as the largest one.

    Args:
        model: its tensors have names; those whose type cannot be inferred are left out.
        feed: all inputs.
    """
    light = without_large_tensors(model)
    known: dict[str, int] = {}
    for value in light.graph.input:
        shape = feed[value.name].shape
        symbols = (dimension.dim_param for dimension in value.type.tensor_type.shape.dim)
        known.update((symbol, size) for symbol, size in zip(symbols, shape, strict=False) if symbol)
        value.CopyFrom(make_tensor_value_info(value.name, value.type.tensor_type.elem_type, shape))
    for value in (*light.graph.value_info, *light.graph.output):
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_param in known:
                dimension.dim_value = known[dimension.dim_param]
    sizes = {name: _bytes(value) for name, value in _declared(light.graph).items()}
    made = {name for node in light.graph.node for name in node.output if name}
    if None in sizes.values() or not made <= sizes.keys():
        sizes = {name: _bytes(value) for name, value in _inferred(light).items()}
    largest = max((size for size in sizes.values() if size is not None), default=0)
    return {name: largest if size is None else size for name, size in sizes.items()}


def _inferred(light: ModelProto) -> dict[str, ValueInfoProto]:
    try:
        graph = onnx.shape_inference.infer_shapes(light, data_prop=True).graph
    except onnx.shape_inference.InferenceError:  # it knows a rule that the model breaks; onnxruntime need not
        graph = light.graph
    return _declared(graph)


def _declared(graph: GraphProto) -> dict[str, ValueInfoProto]:
    values = (*graph.input, *graph.value_info, *graph.output)
    return {value.name: value for value in values if value.type.tensor_type.elem_type}


def _bytes(value: ValueInfoProto) -> int | None:
    """None where a dimension is unknown."""
    tensor = value.type.tensor_type
    if not tensor.HasField("shape") or not all(d.HasField("dim_value") for d in tensor.shape.dim):
        return None
    itemsize: int = tensor_dtype_to_np_dtype(tensor.elem_type).itemsize
    return itemsize * math.prod(int(d.dim_value) for d in tensor.shape.dim)
