"""An ONNX file read so that the values of its large initializers go straight into memory of their own.

Protobuf would copy them into its message, and then copy that message again and again. Here the file is looked
through for them, the model is parsed without them, and each is read and digested once, several at a time.
"""

import mmap
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, TensorProto

from disttune.quantize.digest import describe_values
from disttune.quantize.protobuf_fields import Field, field_head, fields
from disttune.quantize.tensor_memory import SMALLEST_BYTES, TensorMemory, n_value_bytes

_GRAPH = ModelProto.DESCRIPTOR.fields_by_name["graph"].number
_INITIALIZER = GraphProto.DESCRIPTOR.fields_by_name["initializer"].number
_RAW_DATA = TensorProto.DESCRIPTOR.fields_by_name["raw_data"].number
_ALIGNMENT = 64
_AT_ONCE = 2  # tensors that are read and digested at a time

Bytes = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class _Span:
    """Values of the initializer with this index, in the file."""

    index: int
    offset: int
    n_bytes: int


def parse_onnx(path: Path, memory: TensorMemory) -> ModelProto:
    """The model in a file; the memory holds its large initializers.

    Raises:
        OSError: the file cannot be read.
        Exception: it holds no model (what protobuf raises).
    """
    with path.open("rb") as file:
        with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped, memoryview(mapped) as data:
            parts, spans = _without_values(data)
        model: ModelProto = ModelProto.FromString(parts)
        if spans:
            _put_beside(model, spans, file.fileno(), memory)
    return model


def _without_values(data: memoryview) -> tuple[bytes, list[_Span]]:
    """The file without the large values, and where these are; the whole file where it is not as usual."""
    try:
        top = list(fields(data, 0, len(data)))
        graphs = [field for field in top if field.number == _GRAPH]
        if len(graphs) != 1 or not graphs[0].has_length:  # of several, protobuf makes one
            return bytes(data), []
        graph, spans = _graph_without_values(data, graphs[0])
    except ValueError:
        return bytes(data), []
    before, after = data[: graphs[0].begin], data[graphs[0].end :]
    return b"".join((before, field_head(_GRAPH, len(graph)), graph, after)), spans


def _graph_without_values(data: memoryview, graph: Field) -> tuple[bytes, list[_Span]]:
    parts: list[bytes | memoryview] = []
    spans: list[_Span] = []
    index = -1
    for field in fields(data, graph.content, graph.end):
        index += field.number == _INITIALIZER
        large = _large_values(data, field)
        if large is None:
            parts.append(data[field.begin : field.end])
            continue
        n_bytes = field.end - field.content - (large.end - large.begin)
        spans.append(_Span(index, large.content, large.end - large.content))
        parts += [
            field_head(_INITIALIZER, n_bytes),
            data[field.content : large.begin],
            data[large.end : field.end],
        ]
    return b"".join(parts), spans


def _large_values(data: memoryview, field: Field) -> Field | None:
    """The raw data of an initializer, if it is large."""
    if field.number != _INITIALIZER or not field.has_length or field.end - field.content < SMALLEST_BYTES:
        return None
    found = [f for f in fields(data, field.content, field.end) if f.number == _RAW_DATA]
    is_large = len(found) == 1 and found[0].end - found[0].content >= SMALLEST_BYTES
    return found[0] if is_large else None


def _put_beside(model: ModelProto, spans: Sequence[_Span], descriptor: int, memory: TensorMemory) -> None:
    places = np.cumsum([0, *(-(-span.n_bytes // _ALIGNMENT) * _ALIGNMENT for span in spans)])
    room = np.empty(places[-1] + _ALIGNMENT, np.uint8)
    room = room[-room.ctypes.data % _ALIGNMENT :]
    tensors = [model.graph.initializer[span.index] for span in spans]

    def read(position: int) -> tuple[Bytes, bytes | None]:
        span, tensor = spans[position], tensors[position]
        values = room[places[position] : places[position] + span.n_bytes]
        _read_at(descriptor, values, span.offset)
        is_whole = _n_bytes(tensor) == span.n_bytes
        return values, describe_values(values, tensor.data_type, tensor.dims) if is_whole else None

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for tensor, (values, description) in zip(tensors, pool.map(read, range(len(spans))), strict=True):
            if description is None:  # the checks of the model will say so
                tensor.raw_data = values.tobytes()
            else:
                beside = memory.tensor(values, tensor.data_type, tuple(tensor.dims), description, tensor.name)
                tensor.CopyFrom(beside)


def _n_bytes(tensor: TensorProto) -> int | None:
    """What its type and shape say; None for a type that has no raw data."""
    try:
        return None if tensor.data_type == TensorProto.STRING else n_value_bytes(tensor)
    except KeyError:
        return None


def _read_at(descriptor: int, values: Bytes, offset: int) -> None:
    view = values.data
    while len(view):
        n_read = os.preadv(descriptor, [view], offset)
        if n_read == 0:
            raise OSError(0, "it became shorter while it was read")
        view, offset = view[n_read:], offset + n_read
