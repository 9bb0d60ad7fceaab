"""Facts about the large tensors that many models share: each is found out once, not once in each trial.

A tensor is known by its identity: an engine hands out the same message for the same codes, for as long as it
lives.
"""

from dataclasses import dataclass
from typing import Any

import onnxruntime
from onnx import ModelProto, TensorProto, numpy_helper

from disttune.quantize.builder.writer import Blueprint
from disttune.quantize.counts import count_quantized
from disttune.quantize.digest import describe_tensor, model_digest

# What an OrtValue can be made of without a copy in another type; other tensors go into the model itself.
SHAREABLE = (
    TensorProto.FLOAT,
    TensorProto.INT8,
    TensorProto.UINT8,
    TensorProto.INT16,
    TensorProto.UINT16,
    TensorProto.INT32,
    TensorProto.INT64,
)
_EXTERNAL_PLACE = "shared"  # nothing is read from there: the values are handed over


@dataclass(frozen=True, eq=False)
class _Facts:
    """Of one tensor; `tensor` is kept so that its identity stays its own."""

    tensor: TensorProto
    description: bytes
    n_bytes_unnamed: int


class SharedTensors:
    """Digest, size and memory of shared tensors."""

    def __init__(self) -> None:
        self._facts: dict[int, _Facts] = {}
        self._values: dict[int, tuple[Any, int]] = {}

    def digest(self, blueprint: Blueprint) -> str:
        """`model_digest` of the whole model."""
        return model_digest(
            blueprint.skeleton, {n: self._of(t).description for n, t in blueprint.tensors.items()}
        )

    def n_quantized(self, blueprint: Blueprint) -> int:
        """`count_quantized` of the whole model."""
        return count_quantized(blueprint.skeleton, blueprint.tensors)

    def size_bytes(self, blueprint: Blueprint) -> int:
        """Length of the whole model as a file, without making it."""
        skeleton = blueprint.skeleton
        before = skeleton.graph.ByteSize()
        after = before
        for name, tensor in blueprint.tensors.items():
            n_bytes = self._of(tensor).n_bytes_unnamed + _field(len(name.encode()))
            after += _field(n_bytes)
        return int(skeleton.ByteSize()) - _field(before) + _field(after)

    def session_parts(self, blueprint: Blueprint) -> tuple[bytes, dict[str, Any]]:
        """A model whose shared tensors are only named, and their values as `OrtValue` by name."""
        model = ModelProto()
        model.CopyFrom(blueprint.skeleton)
        values = {}
        for name, tensor in blueprint.tensors.items():
            added = model.graph.initializer.add()
            if tensor.data_type not in SHAREABLE:
                added.CopyFrom(tensor)
                added.name = name
                continue
            values[name], n_bytes = self._value(tensor)
            added.name = name
            added.data_type = tensor.data_type
            added.dims.extend(tensor.dims)
            added.data_location = TensorProto.EXTERNAL
            for key, text in (("location", _EXTERNAL_PLACE), ("offset", "0"), ("length", str(n_bytes))):
                added.external_data.add(key=key, value=text)
        return model.SerializeToString(), values

    def _of(self, tensor: TensorProto) -> _Facts:
        facts = self._facts.get(id(tensor))
        if facts is None:
            unnamed = int(tensor.ByteSize()) - (_field(len(tensor.name.encode())) if tensor.name else 0)
            facts = self._facts[id(tensor)] = _Facts(tensor, describe_tensor(tensor), unnamed)
        return facts

    def _value(self, tensor: TensorProto) -> tuple[Any, int]:
        self._of(tensor)  # keeps the tensor
        value = self._values.get(id(tensor))
        if value is None:
            array = numpy_helper.to_array(tensor)
            ort_value = onnxruntime.OrtValue.ortvalue_from_numpy(array)
            value = self._values[id(tensor)] = (ort_value, array.nbytes)
        return value


def _field(n_bytes: int) -> int:
    """Length of a protobuf field with so many bytes, its tag of one byte and the length included."""
    return 1 + max(1, -(-n_bytes.bit_length() // 7)) + n_bytes
