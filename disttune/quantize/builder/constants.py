"""Quantized constants, each made once: codes, scale and zero point as tensors ready to be copied."""

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import get_args

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from disttune.config.errors import InternalError, TrialError
from disttune.config.schemes import FLOAT8_DTYPES, Scheme
from disttune.config.weight_methods import WEIGHT_METHODS
from disttune.quantize.bias import bias_codes
from disttune.quantize.builder.encode import ONNX_TYPES, encode
from disttune.quantize.builder.nbits_tensors import Form, NBits, nbits_as_arrays, nbits_from_arrays, nbits_of
from disttune.quantize.builder.rounded_matrix import is_rounded_here, rounded_matrix
from disttune.quantize.builder.tensor_schemes import ConstantScheme
from disttune.quantize.digest import describe_tensor, describe_values
from disttune.quantize.parameters import has_power_of_two_scale, next_power_of_two
from disttune.quantize.shelf import Arrays, Shelf
from disttune.quantize.tensor_memory import SMALLEST_BYTES, TensorMemory, tensor_values
from disttune.quantize.weights import QuantizedWeight, packed, quantize_weight

Floats = NDArray[np.float32]
_KEPT_BYTES = 2**16
_INT32_MAX = 2**31 - 1


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedConstant:
    """A constant as codes.

    Args:
        scales: one, or several along the axis.
        dtype: of the codes.
        axis: None for one scale.
        block_size: 0, or elements along the axis that have one scale.
        codes, scale, zero_point: as tensors without a name.
    """

    scales: Floats
    dtype: str
    axis: int | None
    block_size: int
    codes: TensorProto
    scale: TensorProto
    zero_point: TensorProto


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedBias:
    """A bias as int32 codes: tensors without a name; the axis is None for one scale."""

    codes: TensorProto
    scale: TensorProto
    zero_point: TensorProto
    axis: int | None


@dataclass(frozen=True, slots=True, eq=False)
class Solved:
    """Codes of a weight that an algorithm has found.

    Args:
        key: equal keys, equal codes.
        make: unpacks them; not kept, because what is written of them is.
    """

    key: str
    make: Callable[[], QuantizedWeight]


class ConstantStore:
    """Quantizes constants of one float model, each in each way once.

    Args:
        constants: of the float model by name; copies of weights go by the weight's name.
        shelf: for codes, so that a node makes and holds them once.
    """

    def __init__(self, constants: Mapping[str, TensorProto], shelf: Shelf | None = None):
        self._tensors = constants
        self._shelf = shelf
        self._memory = TensorMemory()
        self._descriptions: dict[str, bytes] = {}
        self._arrays: dict[str, Floats] = {}
        self._constants: dict[tuple[object, ...], QuantizedConstant] = {}
        self._grown: dict[tuple[object, ...], Floats | None] = {}
        self._biases: dict[tuple[object, ...], QuantizedBias | None] = {}
        self._solved: dict[tuple[str, ConstantScheme], Solved] = {}
        self._input_scales: dict[tuple[str, ConstantScheme], Floats | None] = {}
        self._nbits: dict[tuple[str, ConstantScheme, Form], NBits] = {}

    def array(self, name: str) -> Floats:
        """Values of a float constant; not to be written to."""
        if name in self._arrays:
            return self._arrays[name]
        array: Floats = tensor_values(self._tensors[name])
        if array.nbytes <= _KEPT_BYTES:  # biases are read in each candidate; weights once for each scheme
            self._arrays[name] = array
        return array

    def use(self, name: str, scheme: ConstantScheme, solved: Solved, input_scale: Floats | None) -> None:
        """Take the codes that an algorithm has found for a weight, instead of any before.

        Args:
            input_scale: what the weight's data has to be divided by, shape (K,); None for ones.
        """
        self._input_scales[name, scheme] = input_scale
        for key in [key for key in self._constants if key[:2] == (name, scheme)]:
            del self._constants[key]
        for form in get_args(Form):
            self._nbits.pop((name, scheme, form), None)
        self._solved[name, scheme] = solved

    def input_scale(self, name: str, scheme: ConstantScheme) -> Floats | None:
        """What an algorithm wants a weight's data to be divided by."""
        return self._input_scales.get((name, scheme))

    def quantized(self, name: str, scheme: ConstantScheme) -> QuantizedConstant:
        """A constant's codes: rounded right here, or those that an algorithm has found before."""
        return self._once((name, scheme), scheme.scheme, lambda: self._weight(name, scheme))

    def nbits(self, name: str, scheme: ConstantScheme, form: Form) -> NBits:
        """The codes of a matrix for MatMulNBits, or of a table for GatherBlockQuantized."""
        key = (name, scheme, form)
        if key not in self._nbits:
            with _naming(name):
                self._nbits[key] = self._shared_nbits(name, scheme, form)
        return self._nbits[key]

    def transposed(self, name: str, scheme: Scheme) -> QuantizedConstant:
        """Of a matrix turned over; per channel its columns are."""
        axis = 1 if scheme.granularity == "per_channel" else None
        return self._once(
            (name, scheme, "transposed"),
            scheme,
            lambda: quantize_weight(np.ascontiguousarray(self.array(name).T), scheme, axis),
        )

    def recurrent(self, name: str, scheme: Scheme) -> QuantizedConstant:
        """Of a weight of LSTM as DynamicQuantizeLSTM takes it: (directions, inputs, 4 * hidden).

        It has one scale for each direction, or for each row of each direction.
        """

        def quantize() -> QuantizedWeight:
            array = self.array(name)
            n_directions, n_rows, n_inputs = array.shape
            rows = replace(scheme, granularity="per_channel")
            several = scheme.granularity == "per_channel"
            weight = quantize_weight(array.reshape(-1, n_inputs) if several else array, rows, 0)
            shape = (n_directions, n_rows) if several else (n_directions,)
            return replace(
                weight,
                codes=np.reshape(weight.codes, array.shape).transpose(0, 2, 1),
                scale=np.reshape(weight.scale, shape),
                zero_point=np.reshape(weight.zero_point, shape),
            )

        return self._once((name, scheme, "recurrent"), scheme, quantize)

    def for_bias(
        self,
        name: str,
        scheme: ConstantScheme,
        weight: QuantizedConstant,
        bias: str,
        data_scale: np.float32,
        beta: float,
    ) -> QuantizedConstant:
        """A weight with scales large enough for the int32 codes of a bias.

        Args:
            weight: as it is up to now.
            data_scale: of the data that the weight is multiplied by.
            beta: factor of the bias.
        """
        key = (bias, float(data_scale), weight.scales.shape, weight.scales.tobytes(), beta)
        if key not in self._grown:
            with _naming(bias):
                values = self.array(bias) * np.float32(beta)
                self._grown[key] = _grown_scales(values, data_scale, weight.scales)
        scales = self._grown[key]
        if scales is None:
            return weight
        if has_power_of_two_scale(scheme.scheme):
            scales = next_power_of_two(scales)
        return self._once(
            (name, scheme, scales.tobytes()), scheme.scheme, lambda: self._rescaled(name, scheme, scales)
        )

    def _weight(self, name: str, scheme: ConstantScheme) -> QuantizedWeight:
        """Rounded right here, or as an algorithm has found it before."""
        if (name, scheme) in self._solved:
            return self._solved[name, scheme].make()
        if is_rounded_here(scheme.scheme, len(self._tensors[name].dims)) and scheme.axis is not None:
            return rounded_matrix(self.array(name), scheme.scheme, scheme.axis)
        if scheme.scheme.method in WEIGHT_METHODS:
            raise InternalError(f'weight "{name}": {scheme.scheme} has not been solved')
        return quantize_weight(self.array(name), scheme.scheme, scheme.axis)

    def _rescaled(self, name: str, scheme: ConstantScheme, scales: Floats) -> QuantizedWeight:
        """A weight with larger scales; codes that an algorithm has found stay where the scale does."""
        weight = self.array(name)
        if (name, scheme) not in self._solved:
            return quantize_weight(weight, scheme.scheme, scheme.axis).rescaled(weight, scales)
        solved = self._weight(name, scheme)
        grown = solved.rescaled(weight, scales)
        same = grown.for_each_value(scales == solved.scale)
        return replace(grown, codes=np.where(same, solved.codes, grown.codes))

    def bias(self, name: str, data_scale: np.float32, scales: Floats, beta: float) -> QuantizedBias | None:
        """int32 codes of beta x bias at the scale data x weight; None where it has to stay in float."""
        key = (name, float(data_scale), scales.shape, scales.tobytes(), beta)
        if key not in self._biases:
            with _naming(name):
                self._biases[key] = _quantized_bias(self.array(name) * np.float32(beta), data_scale, scales)
        return self._biases[key]

    def _once(
        self, key: tuple[object, ...], scheme: Scheme, quantize: Callable[[], QuantizedWeight]
    ) -> QuantizedConstant:
        if key not in self._constants:
            with _naming(key[0]):
                cause = repr((key[1:], self._solved_key(*key[:2])))
                self._constants[key] = self._shared(str(key[0]), cause, scheme.dtype, quantize)
        return self._constants[key]

    def _solved_key(self, name: object, scheme: object) -> str:
        """Of the codes that an algorithm has found and others are made from; "" where there are none."""
        solved = self._solved.get((name, scheme))  # type: ignore[arg-type]
        return solved.key if solved else ""

    def _shared_nbits(self, name: str, scheme: ConstantScheme, form: Form) -> NBits:
        """As `_shared`."""

        def made() -> NBits:
            return nbits_of(self._weight(name, scheme), form)

        if self._shelf is None or math.prod(self._tensors[name].dims) < SMALLEST_BYTES:
            return made()
        key = self._shelf_key(name, f"nbits {form} {scheme!r} {self._solved_key(name, scheme)}")
        arrays = self._shelf.find(key)
        if arrays is None:
            arrays = self._shelf.keep(key, nbits_as_arrays(made()))
        return nbits_from_arrays(arrays, self._memory)

    def _shared(
        self, name: str, cause: str, dtype: str, quantize: Callable[[], QuantizedWeight]
    ) -> QuantizedConstant:
        """What is on the shelf, or else is made here and put there.

        Args:
            name: of the constant.
            cause: all that the codes depend on beside the constant's values.
            dtype: of the codes.
        """
        if self._shelf is None or math.prod(self._tensors[name].dims) < SMALLEST_BYTES:
            return _as_tensors(quantize(), dtype)
        key = self._shelf_key(name, f"{dtype} {cause}")
        arrays = self._shelf.find(key)
        if arrays is None:
            arrays = self._shelf.keep(key, _as_arrays(quantize(), dtype))
        return _from_arrays(arrays, dtype, self._memory)

    def _shelf_key(self, name: str, cause: str) -> str:
        if name not in self._descriptions:
            self._descriptions[name] = describe_tensor(self._tensors[name])
        text = f"{self._descriptions[name].hex()} {cause}"
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


@contextmanager
def _naming(constant: object) -> Iterator[None]:
    """Let errors say which constant it was."""
    try:
        yield
    except TrialError as error:
        raise TrialError(f'constant "{constant}": {error}') from error


def _fits(bias: Floats, scales: Floats) -> bool:
    """Whether a bias has a value for each scale of the weight, or the weight one scale; groups never fit."""
    return scales.size == 1 or bias.shape == scales.shape


def _grown_scales(bias: Floats, data_scale: np.float32, scales: Floats) -> Floats | None:
    """Scales of a weight that the bias fits; None where it does already, or never will."""
    if not _fits(bias, scales):
        return None
    grown = bias_codes(bias, data_scale, scales)
    return None if grown.ratio is None else grown.weight_scale


def _quantized_bias(bias: Floats, data_scale: np.float32, scales: Floats) -> QuantizedBias | None:
    if not _fits(bias, scales):
        return None
    quantized = bias_codes(bias, data_scale, scales, may_grow=False)
    if (np.abs(quantized.codes.astype(np.int64)) >= _INT32_MAX).any():
        return None
    several = scales.size > 1
    return QuantizedBias(
        encode(quantized.codes, "int32"),
        encode(quantized.scale.reshape(-1), "float32"),
        encode(np.zeros(scales.size if several else (), np.int32), "int32"),
        0 if several else None,
    )


def _as_arrays(weight: QuantizedWeight, dtype: str) -> Arrays:
    """For the shelf."""
    _check_zero_points(weight, dtype)
    codes = np.frombuffer(packed(weight.codes, dtype), np.uint8)
    description = describe_values(codes, ONNX_TYPES[dtype], weight.codes.shape)
    return {
        "codes": codes,
        "shape": np.array(weight.codes.shape, np.int64),
        "scale": weight.scale,
        "zero point": weight.zero_point,
        "axis and block": np.array([-1 if weight.axis is None else weight.axis, weight.block_size or 0]),
        "description": np.frombuffer(description, np.uint8),
    }


def _from_arrays(arrays: Arrays, dtype: str, memory: TensorMemory) -> QuantizedConstant:
    """From the shelf: the codes stay there."""
    axis, block_size = (int(n) for n in arrays["axis and block"])
    shape = tuple(int(n) for n in arrays["shape"])
    scales = np.array(arrays["scale"])
    return QuantizedConstant(
        scales=scales,
        dtype=dtype,
        axis=None if axis < 0 else axis,
        block_size=block_size,
        codes=memory.tensor(arrays["codes"], ONNX_TYPES[dtype], shape, arrays["description"].tobytes()),
        scale=encode(scales, "float32"),
        zero_point=encode(np.array(arrays["zero point"]), dtype),
    )


def _as_tensors(weight: QuantizedWeight, dtype: str) -> QuantizedConstant:
    _check_zero_points(weight, dtype)
    return QuantizedConstant(
        scales=weight.scale,
        dtype=dtype,
        axis=weight.axis,
        block_size=weight.block_size or 0,
        codes=encode(weight.codes, dtype),
        scale=encode(weight.scale, "float32"),
        zero_point=encode(weight.zero_point, dtype),
    )


def _check_zero_points(weight: QuantizedWeight, dtype: str) -> None:
    if dtype not in FLOAT8_DTYPES and not np.issubdtype(weight.zero_point.dtype, np.integer):
        raise TrialError(
            "its zero points lie between codes: DequantizeLinear has none such. "
            'Use weight_only_format = "matmulnbits", or leave float_zero_point off.'
        )
