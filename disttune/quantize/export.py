"""Write a model so that its file is either the old one or the new one, whole.

A model that protobuf cannot serialize gets its tensors in a second file `<name>.data`. That one is put
in place first; only a crash between the two renames leaves a new data file beside an old model.

Nothing here waits for the disk: a model that a trial opens as a file does not need it, and the best one of a
job is flushed when the job has ended.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from onnx import GraphProto, ModelProto, TensorProto

from disttune.config.errors import RunDirectoryError
from disttune.quantize.digest import serialize
from disttune.quantize.protobuf_fields import field_head
from disttune.quantize.size import LARGE_BYTES, field_bytes, model_bytes, tensor_bytes
from disttune.quantize.tensor_memory import (
    copy_field,
    in_memory,
    n_value_bytes,
    raw_values,
    whole_tensor,
    without_initializers,
)

_GRAPH_FIELD = ModelProto.DESCRIPTOR.fields_by_name["graph"].number
_INITIALIZER_FIELD = GraphProto.DESCRIPTOR.fields_by_name["initializer"].number
_RAW_DATA_FIELD = TensorProto.DESCRIPTOR.fields_by_name["raw_data"].number
_ALIGNMENT = 4096  # so that the data can be mapped
_MIN_EXTERNAL_BYTES = 1024  # shapes, scales and the like stay in the model, where shape inference sees them


def save_model(model: ModelProto, path: Path, external_from_bytes: int = LARGE_BYTES) -> None:
    """Write a model to a file, or leave what is there.

    Args:
        model: not changed.
        path: of the .onnx file; its folder exists.
        external_from_bytes: models from this size on get a data file beside theirs.
    Raises:
        RunDirectoryError: it cannot be written: disk full, no permission ...
    """
    data_path = path.with_name(path.name + ".data")
    try:
        if model_bytes(model) < external_from_bytes:
            with replaced_file(path) as file:
                _write_whole(model, file)
            data_path.unlink(missing_ok=True)  # of a larger model before this one
        else:
            with replaced_file(path) as file:
                with replaced_file(data_path) as data_file:
                    skeleton = _write_tensors(model, data_file, data_path.name)
                file.write(serialize(skeleton))
    except OSError as error:
        raise RunDirectoryError(
            f"{path}: the model cannot be written: {error.strerror or error}. "
            "Make room or give another run directory (-o), then run the same command again."
        ) from error


@contextlib.contextmanager
def replaced_file(path: Path) -> Iterator[BinaryIO]:
    """A file that takes the place of `path` when the block ends well, and goes away when it does not."""
    temporary = path.with_name(f".{path.name}.writing")
    try:
        with temporary.open("wb") as file:
            yield file
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _write_whole(model: ModelProto, file: BinaryIO) -> None:
    """Write what `serialize(whole_model(model))` gives, without having any of it in memory at once."""
    before, after = _around(model, "graph")
    graph_before, graph_after = _around(model.graph, "initializer")
    tensors = model.graph.initializer
    n_bytes = sum(field_bytes(tensor_bytes(tensor)) for tensor in tensors)
    head = field_head(_GRAPH_FIELD, len(graph_before) + n_bytes + len(graph_after))
    file.write(before + head + graph_before)
    for tensor in tensors:
        file.write(field_head(_INITIALIZER_FIELD, tensor_bytes(tensor)))
        if in_memory(tensor):
            named = TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
            file.write(named.SerializeToString(deterministic=True))
            file.write(field_head(_RAW_DATA_FIELD, n_value_bytes(tensor)))
            file.write(raw_values(tensor).data)
        else:
            file.write(tensor.SerializeToString(deterministic=True))
    file.write(graph_after + after)


def _around(message: ModelProto | GraphProto, middle: str) -> tuple[bytes, bytes]:
    """A message's fields before and after one of them, as protobuf writes them: by their numbers."""
    number = message.DESCRIPTOR.fields_by_name[middle].number
    parts = type(message)(), type(message)()
    for field, value in message.ListFields():
        if field.number != number:
            copy_field(parts[field.number > number], field.name, value)
    before, after = (part.SerializeToString(deterministic=True) for part in parts)
    return before, after


def _write_tensors(model: ModelProto, file: BinaryIO, location: str) -> ModelProto:
    """Write the initializers one after the other; returns the model that refers to them."""
    skeleton = without_initializers(model)
    for tensor in model.graph.initializer:
        kept = skeleton.graph.initializer.add()
        if tensor.data_type == TensorProto.STRING or n_value_bytes(tensor) < _MIN_EXTERNAL_BYTES:
            kept.CopyFrom(whole_tensor(tensor))
            continue
        raw = raw_values(tensor)
        file.write(bytes(-file.tell() % _ALIGNMENT))
        kept.name, kept.data_type = tensor.name, tensor.data_type
        kept.dims.extend(tensor.dims)
        kept.data_location = TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", file.tell()), ("length", len(raw))):
            kept.external_data.add(key=key, value=str(value))
        file.write(raw.data)
    return skeleton
