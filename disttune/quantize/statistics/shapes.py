"""Types and sizes of a model's tensors, by onnx's shape inference on a copy without its weights."""

import math
from collections.abc import Mapping
from typing import Any

import onnx
from numpy.typing import NDArray
from onnx import ModelProto, ValueInfoProto
from onnx.helper import make_tensor_value_info, tensor_dtype_to_np_dtype

from disttune.quantize.tensor_memory import in_memory

_SMALL_BYTES = 1024  # shapes, axes and the like, whose values say what shape others have

Array = NDArray[Any]


def element_types(model: ModelProto) -> dict[str, int]:
    """Type of every plain tensor that has one: declared, or inferred."""
    light = without_weights(model)
    light.graph.value_info.extend(model.graph.value_info)
    values = _inferred(light)
    return {name: value.type.tensor_type.elem_type for name, value in values.items()}


def tensor_bytes(model: ModelProto, feed: Mapping[str, Array]) -> dict[str, int]:
    """How much memory each tensor takes when a feed is run.

    An estimate: a tensor whose shape cannot be inferred counts as much as the largest one.

    Args:
        model: its tensors have names; those whose type cannot be inferred are left out.
        feed: all inputs.
    """
    light = without_weights(model)
    light.graph.value_info.extend(model.graph.value_info)
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
    sizes = {name: _bytes(value) for name, value in _inferred(light).items()}
    largest = max((size for size in sizes.values() if size is not None), default=0)
    return {name: largest if size is None else size for name, size in sizes.items()}


def without_weights(model: ModelProto) -> ModelProto:
    """A copy whose large initializers have a type and a shape but no values, and without value infos."""
    light = ModelProto(ir_version=model.ir_version)
    light.opset_import.extend(model.opset_import)
    light.functions.extend(model.functions)
    light.graph.name = model.graph.name
    light.graph.node.extend(model.graph.node)
    light.graph.input.extend(model.graph.input)
    light.graph.output.extend(model.graph.output)
    for tensor in model.graph.initializer:
        if not in_memory(tensor) and tensor.ByteSize() <= _SMALL_BYTES:
            light.graph.initializer.append(tensor)
        else:
            light.graph.initializer.add(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    return light


def _inferred(light: ModelProto) -> dict[str, ValueInfoProto]:
    try:
        graph = onnx.shape_inference.infer_shapes(light, data_prop=True).graph
    except onnx.shape_inference.InferenceError:  # it knows a rule that the model breaks; onnxruntime need not
        graph = light.graph
    values = (*graph.input, *graph.value_info, *graph.output)
    return {value.name: value for value in values if value.type.tensor_type.elem_type}


def _bytes(value: ValueInfoProto) -> int | None:
    """None where a dimension is unknown."""
    tensor = value.type.tensor_type
    if not tensor.HasField("shape") or not all(d.HasField("dim_value") for d in tensor.shape.dim):
        return None
    itemsize: int = tensor_dtype_to_np_dtype(tensor.elem_type).itemsize
    return itemsize * math.prod(int(d.dim_value) for d in tensor.shape.dim)
