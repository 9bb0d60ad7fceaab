"""A weight's codes, scales and zero points as MatMulNBits of com.microsoft takes them.

Rules:
1. Codes have 2, 4 or 8 bits and blocks of 2^n >= 16 rows of K. Types between go in the next larger one. One
   scale for a column, or for all, is repeated for each of the blocks that cost the fewest bytes.
2. Codes are unsigned, shape (N, n_blocks, block_size * bits / 8), the low bits first; the last block is
   filled up with zeros.
3. Zero points (N, n_blocks) are packed row by row, filled up with the middle code; left out where all are the
   middle code, as symmetric codes have it or can be shifted to; float32 where they lie between codes.
4. A table of N rows for GatherBlockQuantized has full blocks and codes of shape (N, K * bits / 8).
Source: onnxruntime 1.31, ContribOperators.md and matmul_nbits_quantizer.py; its CPU provider runs 2, 4 and 8
bits, float32 zero points with up to 4.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from disttune.config.errors import TrialError
from disttune.quantize.digest import describe_tensor
from disttune.quantize.shelf import Arrays
from disttune.quantize.tensor_memory import SMALLEST_BYTES, TensorMemory, raw_values
from disttune.quantize.weights import QuantizedWeight

LEAST_BLOCK = 16
_LARGEST_BLOCK = 256  # for one scale of many rows
_SCALE_BYTES = 4
_FLOAT_ZERO_BITS = 4
_CODES_AT_ONCE = 2**22  # of a large matrix several copies are made on the way
# A matrix (K, N); turned (N, K); a table (N, K) whose rows are looked up.
Form = Literal["matrix", "turned", "table"]
_TENSORS = ("codes", "scale", "zero_point")


@dataclass(frozen=True, slots=True, eq=False)
class NBits:
    """The constants of one node; tensors without a name.

    Args:
        n_rows, n_columns: K and N of the float weight.
        bits: of the codes: 2, 4 or 8.
        block_size: rows that share a scale.
    """

    n_rows: int
    n_columns: int
    bits: int
    block_size: int
    codes: TensorProto
    scale: TensorProto
    zero_point: TensorProto | None


def nbits_of(weight: QuantizedWeight, form: Form) -> NBits:
    """A weight as rule 2 has it.

    Args:
        weight: of a matrix.
        form: how it is held, and rule 4.
    Raises:
        TrialError: its zero points have no form.
    """
    bits, offset = _bits(weight.dtype)
    is_turned = form != "matrix"
    codes = weight.codes if is_turned else weight.codes.T
    n_columns, n_rows = codes.shape
    block_size = weight.block_size or _cheapest_block(n_rows, bits)
    n_blocks = -(-n_rows // block_size)
    scale = _for_blocks(weight, weight.scale, is_turned, (n_columns, n_blocks)).astype(np.float32)
    zeros = _for_blocks(weight, weight.zero_point, is_turned, (n_columns, n_blocks))
    zero_point: TensorProto | None = None
    if np.issubdtype(zeros.dtype, np.floating):
        if bits > _FLOAT_ZERO_BITS:
            raise TrialError(f"zero points of {weight.dtype} cannot lie between codes")
        zero_point = numpy_helper.from_array((zeros + offset).astype(np.float32))
    else:
        middle = 2 ** (bits - 1)
        unsigned = zeros.astype(np.int32) + offset
        shift = middle - int(unsigned.flat[0]) if unsigned.size else 0
        is_one = bool((unsigned == unsigned.flat[:1]).all())
        ends = (int(codes.min()), int(codes.max())) if codes.size else (0, 0)
        lowest, highest = min(ends[0] + offset, 0) + shift, max(ends[1] + offset, 0) + shift
        if is_one and lowest >= 0 and highest < 2**bits:
            offset += shift
        else:
            zero_point = numpy_helper.from_array(_packed(unsigned, bits, middle))
    blocks = np.empty((n_columns, n_blocks, block_size * bits // 8), np.uint8)
    step = max(1, _CODES_AT_ONCE // max(n_rows, 1))
    for start in range(0, n_columns, step):
        some = codes[start : start + step]
        padded = np.zeros((len(some), n_blocks * block_size), np.uint8)
        padded[:, :n_rows] = some.astype(np.int32) + offset
        blocks[start : start + step] = _packed(padded, bits, 0).reshape(len(some), n_blocks, -1)
    if form == "table":
        blocks = blocks.reshape(n_columns, -1)
    return NBits(
        n_rows, n_columns, bits, block_size,
        numpy_helper.from_array(blocks), numpy_helper.from_array(scale), zero_point,
    )  # fmt: skip


def nbits_as_arrays(constants: NBits) -> Arrays:
    """For a shelf: each tensor's values, its type and shape, and its description."""
    sizes = (constants.n_rows, constants.n_columns, constants.bits, constants.block_size)
    arrays: dict[str, NDArray[Any]] = {"sizes": np.array(sizes, np.int64)}
    for name in _TENSORS:
        tensor = getattr(constants, name)
        if tensor is not None:
            arrays[name] = raw_values(tensor)
            arrays[f"{name} form"] = np.array([tensor.data_type, *tensor.dims], np.int64)
            arrays[f"{name} description"] = np.frombuffer(describe_tensor(tensor), np.uint8)
    return arrays


def nbits_from_arrays(arrays: Arrays, memory: TensorMemory) -> NBits:
    """What `nbits_as_arrays` gave; large tensors stay where they are."""

    def tensor(name: str) -> TensorProto | None:
        if name not in arrays:
            return None
        data_type, *dims = (int(n) for n in arrays[f"{name} form"])
        values = arrays[name]
        if values.nbytes < SMALLEST_BYTES:
            return TensorProto(data_type=data_type, dims=dims, raw_data=values.tobytes())
        return memory.tensor(values, data_type, tuple(dims), arrays[f"{name} description"].tobytes())

    codes, scale, zero_point = map(tensor, _TENSORS)
    assert codes is not None
    assert scale is not None
    n_rows, n_columns, bits, block_size = (int(n) for n in arrays["sizes"])
    return NBits(n_rows, n_columns, bits, block_size, codes, scale, zero_point)


def _bits(dtype: str) -> tuple[int, int]:
    """Bits that a type's codes are held in, and what makes them unsigned."""
    own = int(dtype.removeprefix("u").removeprefix("int"))
    bits: int = next(b for b in (2, 4, 8) if b >= own)
    return bits, 0 if dtype.startswith("u") else 2 ** (bits - 1)


def _cheapest_block(n_rows: int, bits: int) -> int:
    """Rule 1; of equal ones the largest."""

    def n_bytes(size: int) -> int:
        n_blocks = -(-n_rows // size)
        return n_blocks * (size * bits // 8 + _SCALE_BYTES)

    sizes = [2**n for n in range(4, max(n_rows - 1, 1).bit_length() + 1)] or [LEAST_BLOCK]
    return int(min((s for s in sizes if s <= _LARGEST_BLOCK), key=lambda size: (n_bytes(size), -size)))


def _for_blocks(
    weight: QuantizedWeight, values: NDArray[Any], is_turned: bool, shape: tuple[int, int]
) -> NDArray[Any]:
    """Parameters for each column and block."""
    if weight.axis is None:
        return np.broadcast_to(values, shape)
    if weight.block_size is None:
        return np.broadcast_to(values[:, None], shape)
    return np.ascontiguousarray(values if is_turned else values.T)


def _packed(codes: NDArray[np.integer[Any]], bits: int, filling: int) -> NDArray[np.uint8]:
    """Rows of codes as bytes, the low bits first; each row is filled up to whole bytes."""
    per_byte = 8 // bits
    n_rows, n = codes.shape
    whole = np.full((n_rows, -(-n // per_byte) * per_byte), filling, np.uint8)
    whole[:, :n] = codes
    packed = np.zeros((n_rows, whole.shape[1] // per_byte), np.uint8)
    for i in range(per_byte):
        packed |= whole[:, i::per_byte] << (i * bits)
    return packed
