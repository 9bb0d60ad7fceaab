"""Facts about the large tensors that many models share: each is found out once, not once in each trial.

A tensor is known by its identity: an engine hands out the same message for the same codes. Those of the last
models are remembered: others may be of graph variants or solutions that the engine has given up.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime
from onnx import ModelProto, TensorProto

from disttune.quantize.builder.writer import Blueprint
from disttune.quantize.counts import count_quantized
from disttune.quantize.digest import describe_tensor, model_digest
from disttune.quantize.size import field_bytes, model_bytes_with, tensor_bytes
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
_REMEMBERED = 16  # models
# Where the values seem to be, for onnxruntime wants a file that exists: behind the end of this one, so that
# an attempt to read them is an error.
_EXTERNAL_PLACE, _EXTERNAL_OFFSET = Path(__file__).name, str(2**40)


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
        self._recent: deque[frozenset[int]] = deque(maxlen=_REMEMBERED)

    def digest(self, blueprint: Blueprint) -> str:
        """`model_digest` of the whole model; what no recent one has is forgotten."""
        digest = model_digest(
            blueprint.skeleton, {n: self._of(t).description for n, t in blueprint.tensors.items()}
        )
        self._recent.append(frozenset(map(id, blueprint.tensors.values())))
        kept = frozenset().union(*self._recent)
        self._facts = {key: facts for key, facts in self._facts.items() if key in kept}
        self._values = {key: value for key, value in self._values.items() if key in kept}
        return digest

    def n_quantized(self, blueprint: Blueprint) -> int:
        """`count_quantized` of the whole model."""
        return count_quantized(blueprint.skeleton, blueprint.tensors)

    def size_bytes(self, blueprint: Blueprint) -> int:
        """Length of the whole model as a file, without making it."""
        return model_bytes_with(
            blueprint.skeleton,
            (
                self._of(tensor).n_bytes_unnamed + field_bytes(len(name.encode()))
                for name, tensor in blueprint.tensors.items()
            ),
        )

    def session_parts(self, blueprint: Blueprint) -> tuple[bytes, dict[str, Any]]:
        """A model whose shared tensors are only named, and their values as `OrtValue` by name.

        The values have to be kept for as long as a session uses them.
        """
        model, values = session_model(blueprint.skeleton)
        for name, tensor in blueprint.tensors.items():
            added = model.graph.initializer.add()
            if tensor.data_type not in SHAREABLE:
                added.CopyFrom(whole_tensor(tensor))
                added.name = name
                continue
            values[name], n_bytes = self._value(tensor)
            added.CopyFrom(_named_only(name, tensor, n_bytes))
        return model.SerializeToString(), values

    def _of(self, tensor: TensorProto) -> _Facts:
        facts = self._facts.get(id(tensor))
        if facts is None:
            name = field_bytes(len(tensor.name.encode())) if tensor.name else 0
            unnamed = tensor_bytes(tensor) - name
            facts = self._facts[id(tensor)] = _Facts(tensor, describe_tensor(tensor), unnamed)
        return facts

    def _value(self, tensor: TensorProto) -> tuple[Any, int]:
        self._of(tensor)  # keeps the tensor
        value = self._values.get(id(tensor))
        if value is None:
            array = tensor_values(tensor)
            ort_value = onnxruntime.OrtValue.ortvalue_from_numpy(array)
            value = self._values[id(tensor)] = (ort_value, array.nbytes)
        return value


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
            tensor.CopyFrom(_named_only(tensor.name, tensor, array.nbytes))
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


def _named_only(name: str, tensor: TensorProto, n_bytes: int) -> TensorProto:
    """A tensor without values, which a session is to be given."""
    reference = TensorProto(name=name, data_type=tensor.data_type, dims=tensor.dims)
    reference.data_location = TensorProto.EXTERNAL
    for key, text in (("location", _EXTERNAL_PLACE), ("offset", _EXTERNAL_OFFSET), ("length", str(n_bytes))):
        reference.external_data.add(key=key, value=text)
    return reference
