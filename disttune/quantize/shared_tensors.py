"""Facts about the large tensors that many models share: each is found out once, not once in each trial.

A tensor is known by its identity: an engine hands out the same message for the same codes. Those of the last
models are remembered: others may be of graph variants or solutions that the engine has given up.
"""

from collections import deque
from dataclasses import dataclass
from typing import Any

import onnxruntime
from onnx import TensorProto

from disttune.quantize.builder.writer import Blueprint
from disttune.quantize.counts import count_quantized
from disttune.quantize.digest import describe_tensor, model_digest
from disttune.quantize.session_values import SHAREABLE, named_only, session_model
from disttune.quantize.size import field_bytes, model_bytes_with, tensor_bytes
from disttune.quantize.tensor_memory import tensor_values, whole_tensor

_REMEMBERED = 16  # models


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
            added.CopyFrom(named_only(name, tensor, n_bytes))
        return model.SerializeToString(), values

    def _of(self, tensor: TensorProto) -> _Facts:
        facts = self._facts.get(id(tensor))
        if facts is None:
            name = field_bytes(len(tensor.name.encode())) if tensor.HasField("name") else 0
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
