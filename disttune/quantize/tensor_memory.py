"""Tensors whose values stand in memory beside their messages, so that models and processes can share them.

Rules:
1. A protobuf message cannot point into memory: such a tensor is a message with external data, whose
   location names an array that this process holds. It is small, and copies of it share the array.
2. The array lives as long as the `TensorMemory` that holds it, not as long as the messages.
3. Only initializers of a graph itself are such tensors, and never small ones: what shape inference, folding
   and the like look at is in the message.
4. What leaves for onnx, onnxruntime's tools or a user is made whole before; sessions are given the arrays.
"""

import itertools
import math
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, numpy_helper
from onnx.helper import tensor_dtype_to_np_dtype

from disttune.config.errors import InternalError

SMALLEST_BYTES = 2**14  # of a tensor worth standing beside its message
_LOCATION = "disttune memory "
_DESCRIPTION = "checksum"  # key of the ONNX standard
_LARGE_ELEMENTS = 1024  # shapes, axes and the like, whose values say what shape others have, are smaller
_FOUR_BIT = (TensorProto.INT4, TensorProto.UINT4)

Bytes = NDArray[np.uint8]
_held: weakref.WeakValueDictionary[str, Bytes] = weakref.WeakValueDictionary()
_numbers = itertools.count()


class TensorMemory:
    """Holds arrays for the tensors that it makes."""

    def __init__(self) -> None:
        self._arrays: list[Bytes] = []

    def tensor(
        self,
        values: NDArray[Any],
        data_type: int,
        dims: tuple[int, ...],
        description: bytes | None,
        name: str = "",
    ) -> TensorProto:
        """A tensor whose values stand in this array.

        Args:
            values: contiguous, in ONNX's order of bytes; never written to from now on.
            data_type: of ONNX.
            dims: shape.
            description: what `digest.describe_tensor` gives for it; None: it is found out when asked for.
        """
        array: Bytes = values.reshape(-1).view(np.uint8)
        location = f"{_LOCATION}{next(_numbers)}"
        self._arrays.append(array)
        _held[location] = array
        tensor = TensorProto(name=name, data_type=data_type, dims=dims)
        tensor.data_location = TensorProto.EXTERNAL
        entries = {"location": location, "length": str(array.nbytes)}
        if description is not None:
            entries[_DESCRIPTION] = description.hex()
        for key, text in entries.items():
            tensor.external_data.add(key=key, value=text)
        return tensor


def in_memory(tensor: TensorProto) -> bool:
    """Whether the values stand beside the message (rule 1)."""
    return tensor.data_location == TensorProto.EXTERNAL and _entry(tensor, "location").startswith(_LOCATION)


def place_in_memory(tensor: TensorProto) -> str:
    """Which values a tensor in memory stands for: of two with the same place they are the same."""
    return _entry(tensor, "location")


def known_description(tensor: TensorProto) -> bytes | None:
    """Of a tensor in memory: what its maker said its description is."""
    return bytes.fromhex(_entry(tensor, _DESCRIPTION)) or None


def n_value_bytes(tensor: TensorProto) -> int:
    """Length of the values as ONNX holds them in `raw_data`; not for strings."""
    n: int = math.prod(tensor.dims)
    if tensor.data_type in _FOUR_BIT:
        return (n + 1) // 2
    itemsize: int = tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    return n * itemsize


def raw_values(tensor: TensorProto) -> Bytes:
    """The values as in `raw_data`, without a copy where they stand in memory; not for strings."""
    if in_memory(tensor):
        return _array(tensor)
    if not tensor.HasField("raw_data"):
        tensor = numpy_helper.from_array(numpy_helper.to_array(tensor))
    return np.frombuffer(tensor.raw_data, np.uint8)


def tensor_values(tensor: TensorProto) -> NDArray[Any]:
    """The values as an array; not to be written to, and not copied where they stand in memory."""
    if not in_memory(tensor):
        values: NDArray[Any] = numpy_helper.to_array(tensor)
    elif tensor.data_type in _FOUR_BIT:
        values = numpy_helper.to_array(whole_tensor(tensor))
    else:
        values = _array(tensor).view(tensor_dtype_to_np_dtype(tensor.data_type)).reshape(tensor.dims)
    return values


def whole_tensor(tensor: TensorProto) -> TensorProto:
    """The tensor with its values in the message: a copy where they stand in memory."""
    if not in_memory(tensor):
        return tensor
    values = _array(tensor).tobytes()
    return TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims, raw_data=values)


def whole_model(model: ModelProto) -> ModelProto:
    """The model with all values in the message: a copy where some stand in memory."""
    if not any(map(in_memory, model.graph.initializer)):
        return model
    copy = without_initializers(model)
    copy.graph.initializer.extend(map(whole_tensor, model.graph.initializer))
    return copy


def put_beside(model: ModelProto, memory: TensorMemory) -> ModelProto:
    """A copy whose large initializers stand in memory, the values of those that did not being copied."""
    light = without_initializers(model)
    for tensor in model.graph.initializer:
        is_string = tensor.data_type == TensorProto.STRING
        if not in_memory(tensor) and not is_string and n_value_bytes(tensor) >= SMALLEST_BYTES:
            values, dims = raw_values(tensor), tuple(tensor.dims)
            tensor = memory.tensor(values, tensor.data_type, dims, None, tensor.name)
        light.graph.initializer.append(tensor)
    return light


def without_values(model: ModelProto, change: Callable[[ModelProto], ModelProto]) -> ModelProto:
    """What a change makes of a model whose tensors in memory have a type and a shape, but no values.

    Tensors that are still there afterwards have their values again.
    """
    beside = {tensor.name: tensor for tensor in model.graph.initializer if in_memory(tensor)}
    light = without_initializers(model)
    for tensor in model.graph.initializer:
        if tensor.name in beside:
            light.graph.initializer.add(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
        else:
            light.graph.initializer.append(tensor)
    made = change(light)
    changed = without_initializers(made)
    changed.graph.initializer.extend(beside.get(tensor.name, tensor) for tensor in made.graph.initializer)
    return changed


def without_initializers(model: ModelProto) -> ModelProto:
    """A copy of everything but the tensors, so that a large model is never in memory twice."""
    copy = ModelProto()
    for field, value in model.ListFields():
        if field.name == "graph":
            for part, content in value.ListFields():
                if part.name != "initializer":
                    copy_field(copy.graph, part.name, content)
        else:
            copy_field(copy, field.name, value)
    return copy


def without_large_tensors(model: ModelProto) -> ModelProto:
    """A copy whose large initializers have a type and a shape, but no data: enough to infer shapes."""
    light = without_initializers(model)
    for tensor in model.graph.initializer:
        if is_large(tensor):
            light.graph.initializer.add(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
        else:
            light.graph.initializer.append(tensor)
    return light


def is_large(tensor: TensorProto) -> bool:
    """Whether `without_large_tensors` empties it."""
    return bool(math.prod(tensor.dims) > _LARGE_ELEMENTS)


def copy_field(target: object, name: str, value: object) -> None:
    """Set a field of a message to a copy."""
    current = getattr(target, name)
    if hasattr(current, "MergeFrom"):
        current.MergeFrom(value)
    else:
        setattr(target, name, value)


def _array(tensor: TensorProto) -> Bytes:
    array = _held.get(_entry(tensor, "location"))
    if array is None:
        raise InternalError(f'the memory of tensor "{tensor.name}" has been given up')
    return array


def _entry(tensor: TensorProto, key: str) -> str:
    return next((entry.value for entry in tensor.external_data if entry.key == key), "")
