"""How large a model is, also one that protobuf cannot serialize (2 GiB and more)."""

import math

from onnx import ModelProto
from onnx.helper import tensor_dtype_to_np_dtype

from disttune.quantize.topology import all_tensors

# Protobuf cannot serialize 2 GiB; below it, room for what quantizing adds to the graph.
LARGE_BYTES = 2**31 - 2**26


def model_bytes(model: ModelProto) -> int:
    """Size of the model as a file; for a large one, of its tensors alone."""
    tensors: int = sum(
        math.prod(tensor.dims) * tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        for tensor in all_tensors(model.graph)
    )
    return tensors if tensors >= LARGE_BYTES else int(model.ByteSize())
