"""Constants in float16 and bfloat16, each rounded once and held once by all processes of a node."""

import hashlib
import math

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto
from onnx.helper import tensor_dtype_to_np_dtype

from disttune.quantize.digest import describe_tensor, describe_values
from disttune.quantize.shelf import Shelf
from disttune.quantize.tensor_memory import SMALLEST_BYTES, TensorMemory, tensor_values

HALF_TYPES = {"float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}
_REMEMBERED = 4096


class HalfTensors:
    """Rounds float32 constants to the nearest, ties to even.

    Args:
        shelf: of the node; None: each process holds its own.
    """

    def __init__(self, shelf: Shelf | None = None):
        self._shelf = shelf
        self._memory = TensorMemory()
        self._kept: dict[int, TensorProto] = {}  # so that identities stay theirs
        self._largest: dict[int, float] = {}
        self._halves: dict[tuple[int, str], TensorProto] = {}

    def largest(self, tensor: TensorProto, keep: bool) -> float:
        """Of all finite magnitudes of a constant; to be kept where the same message will come again."""
        if not keep:
            return _largest(tensor)
        self._keep(tensor)
        if id(tensor) not in self._largest:
            self._largest[id(tensor)] = _largest(tensor)
        return self._largest[id(tensor)]

    def half(self, tensor: TensorProto, kind: str, keep: bool) -> TensorProto:
        """A constant in a half type, without a name; not to be changed.

        Args:
            tensor: of float32.
            kind: "float16" or "bfloat16".
            keep: whether the same message will come again.
        """
        if not keep:
            return _inline(tensor, kind)
        self._keep(tensor)
        key = (id(tensor), kind)
        if key not in self._halves:
            self._halves[key] = self._made(tensor, kind)
        return self._halves[key]

    def _keep(self, tensor: TensorProto) -> None:
        if len(self._kept) >= _REMEMBERED:  # of many graph variants
            for known in (self._kept, self._largest, self._halves):
                known.clear()
        self._kept[id(tensor)] = tensor

    def _made(self, tensor: TensorProto, kind: str) -> TensorProto:
        data_type, dims = HALF_TYPES[kind], tuple(tensor.dims)
        if self._shelf is None or 2 * math.prod(dims) < SMALLEST_BYTES:
            return _inline(tensor, kind)
        name = b"half/" + describe_tensor(tensor) + kind.encode()
        key = hashlib.blake2b(name, digest_size=16).hexdigest()
        arrays = self._shelf.find(key)
        if arrays is None:
            bits = _rounded(tensor, kind)
            text = np.frombuffer(describe_values(bits, data_type, dims), np.uint8)
            arrays = self._shelf.keep(key, {"bits": bits, "description": text})
        return self._memory.tensor(arrays["bits"], data_type, dims, arrays["description"].tobytes())


def _inline(tensor: TensorProto, kind: str) -> TensorProto:
    bits = _rounded(tensor, kind).tobytes()
    return TensorProto(data_type=HALF_TYPES[kind], dims=tensor.dims, raw_data=bits)


def _rounded(tensor: TensorProto, kind: str) -> NDArray[np.uint8]:
    """The bytes of a float32 constant in a half type."""
    values = tensor_values(tensor).astype(tensor_dtype_to_np_dtype(HALF_TYPES[kind]))
    return np.ascontiguousarray(values).reshape(-1).view(np.uint8)


def _largest(tensor: TensorProto) -> float:
    values = np.abs(tensor_values(tensor))
    return float(np.max(values, initial=0.0, where=np.isfinite(values)))
