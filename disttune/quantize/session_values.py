"""Tensors in memory as onnxruntime is handed them: named in the model, their values beside it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnxruntime
from onnx import ModelProto, TensorProto

from disttune.quantize.tensor_memory import in_memory, tensor_values, whole_tensor

# What an OrtValue can be made of without a copy in another type; other tensors go into the model itself.
SHAREABLE = (
    TensorProto.FLOAT,
    TensorProto.FLOAT16,
    TensorProto.INT8,
    TensorProto.UINT8,
    TensorProto.INT16,
    TensorProto.UINT16,
    TensorProto.INT32,
    TensorProto.INT64,
)
# Where the values seem to be, for onnxruntime wants a file that exists: behind the end of this one, so that
# an attempt to read them is an error.
_EXTERNAL_PLACE, _EXTERNAL_OFFSET = Path(__file__).name, str(2**40)


def session_model(model: ModelProto) -> tuple[ModelProto, dict[str, Any]]:
    """A model whose tensors in memory are only named, and their values as `OrtValue` by name."""
    named = ModelProto()
    named.CopyFrom(model)
    values = {}
    for tensor in named.graph.initializer:
        if not in_memory(tensor):
            continue
        if tensor.data_type in SHAREABLE:
            array = tensor_values(tensor)
            values[tensor.name] = onnxruntime.OrtValue.ortvalue_from_numpy(array)
            tensor.CopyFrom(named_only(tensor.name, tensor, array.nbytes))
        else:
            tensor.CopyFrom(whole_tensor(tensor))
    return named, values


def give_to_session(values: Mapping[str, Any], options: onnxruntime.SessionOptions, cpu: bool = True) -> None:
    """Hand values over to the session that will be made with these options.

    The CPU provider takes a tensor without a copy only when it is named in both ways; others keep weights
    in memory of their own.
    """
    if values:
        options.add_external_initializers(list(values), list(values.values()))
    if cpu:
        for name, value in values.items():
            options.add_initializer(name, value)


def give_without_copies(values: Mapping[str, Any], options: onnxruntime.SessionOptions) -> None:
    """As `give_to_session`, but onnxruntime does not copy them all for a moment.

    Its optimizer then cannot see them: opening the session fails where it has to.
    """
    folder = "session.model_external_initializers_file_folder_path"
    options.add_session_config_entry(folder, str(Path(__file__).parent))
    for name, value in values.items():
        options.add_initializer(name, value)


def named_only(name: str, tensor: TensorProto, n_bytes: int) -> TensorProto:
    """A tensor without values, which a session is to be given."""
    reference = TensorProto(name=name, data_type=tensor.data_type, dims=tensor.dims)
    reference.data_location = TensorProto.EXTERNAL
    for key, text in (("location", _EXTERNAL_PLACE), ("offset", _EXTERNAL_OFFSET), ("length", str(n_bytes))):
        reference.external_data.add(key=key, value=text)
    return reference
