"""Arrays of codes, scales and zero points as tensors of a model."""

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from disttune.quantize.weights import packed

ONNX_TYPES = {
    "int8": TensorProto.INT8,
    "uint8": TensorProto.UINT8,
    "int16": TensorProto.INT16,
    "uint16": TensorProto.UINT16,
    "int4": TensorProto.INT4,
    "uint4": TensorProto.UINT4,
    "int32": TensorProto.INT32,
    "int64": TensorProto.INT64,
    "float32": TensorProto.FLOAT,
    "float8e4m3fn": TensorProto.FLOAT8E4M3FN,
    "float8e5m2": TensorProto.FLOAT8E5M2,
    # Of weights: in the next larger type that every opset with 4 bits has.
    **{f"int{bits}": TensorProto.INT4 if bits < 4 else TensorProto.INT8 for bits in (2, 3, 5, 6, 7)},
    **{f"uint{bits}": TensorProto.UINT4 if bits < 4 else TensorProto.UINT8 for bits in (2, 3, 5, 6, 7)},
}

# numpy's type for an array of codes, where it has another name.
_HELD_AS = {
    "float8e4m3fn": "uint8",
    "float8e5m2": "uint8",
    **{f"int{bits}": "int8" for bits in range(2, 8)},
    **{f"uint{bits}": "uint8" for bits in range(2, 8)},
}


def encode(array: NDArray[Any], dtype: str) -> TensorProto:
    """A tensor without a name.

    Args:
        array: values; of 4 bits one in each element, of float8 their bits.
        dtype: key of `ONNX_TYPES`.
    """
    return TensorProto(data_type=ONNX_TYPES[dtype], dims=array.shape, raw_data=packed(array, dtype))


@lru_cache(maxsize=2**16)
def encode_scalar(value: float, dtype: str) -> TensorProto:
    """A scale or a zero point of shape (); of float8 the zero point is 0. Not to be changed."""
    return encode(np.array(value, _HELD_AS.get(dtype, dtype)), dtype)
