"""How large a model is as a file, also one that protobuf cannot serialize (2 GiB and more)."""

import os
from collections.abc import Iterable

from onnx import ModelProto, TensorProto

from disttune.quantize.tensor_memory import in_memory, n_value_bytes
from disttune.quantize.topology import all_tensors

# Protobuf cannot serialize 2 GiB; below it, room for what quantizing adds to the graph. The environment
# can set it lower, to see with a small model how a large one fares.
LARGE_BYTES = int(os.environ.get("DISTTUNE_LARGE_BYTES", 2**31 - 2**26))


def model_bytes(model: ModelProto) -> int:
    """Size of the model as a file; for a large one, of its tensors alone."""
    tensors = sum(n_value_bytes(tensor) for tensor in all_tensors(model.graph))
    if tensors >= LARGE_BYTES:
        return tensors
    return model_bytes_with(model, ())


def model_bytes_with(model: ModelProto, lengths: Iterable[int]) -> int:
    """Length of a model as a file, with further initializers whose messages have these lengths."""
    before = int(model.graph.ByteSize())
    after = before + sum(map(field_bytes, lengths))
    for tensor in model.graph.initializer:
        if in_memory(tensor):
            after += field_bytes(tensor_bytes(tensor)) - field_bytes(int(tensor.ByteSize()))
    return int(model.ByteSize()) - field_bytes(before) + field_bytes(after)


def tensor_bytes(tensor: TensorProto) -> int:
    """Length of a tensor's message with its values in it."""
    if not in_memory(tensor):
        return int(tensor.ByteSize())
    head = TensorProto(data_type=tensor.data_type, dims=tensor.dims)
    if tensor.HasField("name"):
        head.name = tensor.name
    return int(head.ByteSize()) + field_bytes(n_value_bytes(tensor))


def field_bytes(n_bytes: int) -> int:
    """Length of a protobuf field with so many bytes, its tag of one byte and the length included."""
    return 1 + max(1, -(-n_bytes.bit_length() // 7)) + n_bytes
