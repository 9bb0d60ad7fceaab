"""A model as parts of the replica: its graph, and each large initializer as an array that processes map.

The graph is a model whose large initializers have external data with the name of a part as location.
"""

from typing import Any

from onnx import ModelProto, TensorProto

from disttune.quantize.digest import describe_tensor, serialize
from disttune.quantize.tensor_memory import (
    SMALLEST_BYTES,
    TensorMemory,
    in_memory,
    n_value_bytes,
    raw_values,
    without_initializers,
)
from disttune.runtime.replica import Replica

_GRAPH, _WEIGHTS = "model", "weights/"
_DESCRIPTION = "checksum"  # key of the ONNX standard


def model_parts(model: ModelProto) -> dict[str, Any]:
    """Parts by name; equal tensors are one part."""
    graph = without_initializers(model)
    parts: dict[str, Any] = {}
    for tensor in model.graph.initializer:
        if not _is_part(tensor):
            graph.graph.initializer.append(tensor)
            continue
        description = describe_tensor(tensor).hex()
        name = _WEIGHTS + description
        parts[name] = raw_values(tensor)
        named = graph.graph.initializer.add(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
        named.data_location = TensorProto.EXTERNAL
        named.external_data.add(key="location", value=name)
        named.external_data.add(key=_DESCRIPTION, value=description)
    return {_GRAPH: serialize(graph)} | parts


def model_from(replica: Replica, memory: TensorMemory) -> ModelProto:
    """The model, its large initializers in the replica; the memory holds on to them."""
    model: ModelProto = ModelProto.FromString(replica.array(_GRAPH).tobytes())
    for tensor in model.graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL:
            entries = {entry.key: entry.value for entry in tensor.external_data}
            values, description = replica.array(entries["location"]), bytes.fromhex(entries[_DESCRIPTION])
            tensor.CopyFrom(
                memory.tensor(values, tensor.data_type, tuple(tensor.dims), description, tensor.name)
            )
    return model


def over_replica(model: ModelProto, replica: Replica, memory: TensorMemory) -> ModelProto:
    """The model with the tensors of a replica where they are the same as its own; needs no other memory."""
    names = frozenset(replica.names())
    changed = without_initializers(model)
    for tensor in model.graph.initializer:
        description = describe_tensor(tensor) if _is_part(tensor) else b""
        name = _WEIGHTS + description.hex()
        if name in names or in_memory(tensor):
            # a copy: the array may be part of a larger one
            values = replica.array(name) if name in names else raw_values(tensor).copy()
            dims = tuple(tensor.dims)
            tensor = memory.tensor(values, tensor.data_type, dims, description, tensor.name)
        changed.graph.initializer.append(tensor)
    return changed


def _is_part(tensor: TensorProto) -> bool:
    return tensor.data_type != TensorProto.STRING and n_value_bytes(tensor) >= SMALLEST_BYTES
