"""How one tensor and one operator are quantized: `Scheme` and `OpConfig`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Self

from disttune.config.errors import InputError
from disttune.config.nearest import unknown_name
from disttune.config.weight_methods import WEIGHT_METHODS, Options, OptionValue, parse_weight_method

# Types that only weights have: ONNX has some of them (int2) only lately, others (int3) not at all.
WEIGHT_DTYPES = tuple(f"{sign}int{bits}" for bits in (2, 3, 5, 6, 7) for sign in ("", "u"))
INTEGER_DTYPES = ("int8", "uint8", "int16", "uint16", "int4", "uint4", *WEIGHT_DTYPES)
FLOAT8_DTYPES = ("float8e4m3fn", "float8e5m2")
HALF_DTYPES = ("float16", "bfloat16")
FLOAT_DTYPES = ("float32", *HALF_DTYPES)
QUANTIZED_DTYPES = INTEGER_DTYPES + FLOAT8_DTYPES
GRANULARITIES = ("per_tensor", "per_channel", "per_group")
# Threshold methods; a number after the colon is the method's parameter, e.g. "percentile:99.99".
METHODS: dict[str, float | None] = {
    "minmax": None,
    "percentile": 99.999,  # percent of the values kept
    "entropy": None,
    "mse": None,
    "ema": 0.01,  # share of the newest sample in the moving average
    "sqnr": 3.0,  # weight of saturation against rounding
    "lp": 2.4,  # power of the error
    "pow2_nonoverflow": None,
    "pow2_mse": None,
    "distribution": None,
}
_PARAMETER_RULES: dict[str, tuple[Callable[[float], bool], str]] = {
    "percentile": (lambda p: 0 < p <= 100, "a percentile is more than 0 and at most 100"),
    "ema": (lambda c: 0 < c <= 1, "a share of the newest sample is more than 0 and at most 1"),
    "sqnr": (lambda gamma: 1 <= gamma <= 1000, "a weight of saturation is at least 1 and at most 1000"),
    "lp": (lambda p: 1 <= p <= 4, "a power is at least 1 and at most 4"),
}
Approach = Literal["static", "dynamic", "weight_only", "float"]


def parse_method(text: str) -> tuple[str, float | None]:
    """Split a threshold method as users write it into its name and parameter.

    Args:
        text: "minmax", "percentile" or "percentile:99.99".
    Returns:
        The name and its parameter (the method's default where none is given).
    Raises:
        InputError: the name is unknown, the parameter is no number or out of range, or the method
            takes none.
    """
    name, colon, number = text.partition(":")
    if name not in METHODS:
        raise InputError(unknown_name("threshold method", name, METHODS))
    if not colon:
        return name, METHODS[name]
    if METHODS[name] is None:
        raise InputError(f'threshold method "{name}" takes no parameter; "{text}" was given')
    try:
        parameter = float(number)
    except ValueError:
        raise InputError(f'threshold method "{text}": "{number}" is not a number') from None
    holds, rule = _PARAMETER_RULES[name]
    if not holds(parameter):
        raise InputError(f'threshold method "{text}": {rule}')
    return name, parameter


def parse_scheme_method(text: str) -> tuple[str, float | None, Options]:
    """Split a threshold or weight method as users write it into its name, parameter and options.

    Raises:
        InputError: as `parse_method` and `parse_weight_method`.
    """
    name = text.partition(":")[0]
    if name in WEIGHT_METHODS:
        return name, None, parse_weight_method(text)[1]
    if name not in METHODS:
        raise InputError(unknown_name("method", name, [*METHODS, *WEIGHT_METHODS]))
    return *parse_method(text), ()


@dataclass(frozen=True, slots=True)
class Scheme:
    """How one tensor is quantized.

    Args:
        dtype: integer or float8 type of the codes.
        symmetric: whether the zero point is fixed (0, or the middle of an unsigned type).
        granularity: one scale for the tensor, for each channel, or for each group of a channel.
        group_size: elements of a group; only with "per_group".
        method: threshold method, a key of `METHODS`; for weights also a key of `WEIGHT_METHODS`.
        parameter: the method's parameter (percentile: percent of the mass kept); None: its default, or none.
        options: of a weight method, (name, value) pairs sorted by name, only those other than by default.
        reduce_range: of weights: spread over one bit less (int8: -64 to 64), so that sums of two products
            with uint8 stay inside 16 bits.
    """

    dtype: str
    symmetric: bool
    granularity: str = "per_tensor"
    group_size: int | None = None
    method: str = "minmax"
    parameter: float | None = None
    options: Options = ()
    reduce_range: bool = False

    def __post_init__(self) -> None:
        if self.parameter is not None:  # 99 and 99.0 are one scheme, so they must have one digest
            object.__setattr__(self, "parameter", float(self.parameter))

    def option(self, name: str) -> OptionValue:
        """Value of an option of the weight method: given, else its default; False where it has none."""
        return dict(self.options).get(name, WEIGHT_METHODS[self.method].options.get(name, False))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; fields that stand at None, empty options and a full range are left out."""
        values = {
            "dtype": self.dtype,
            "symmetric": self.symmetric,
            "granularity": self.granularity,
            "group_size": self.group_size,
            "method": self.method,
            "parameter": self.parameter,
            "reduce_range": self.reduce_range or None,
            "options": dict(self.options) or None,
        }
        return {k: v for k, v in values.items() if v is not None}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        return cls(**{**data, "options": tuple(sorted(data.get("options", {}).items()))})

    def __str__(self) -> str:
        shape = f"group of {self.group_size}" if self.group_size else self.granularity.replace("_", " ")
        method = self.method if self.parameter is None else f"{self.method} {self.parameter:g}"
        if self.options:
            method += f" ({', '.join(f'{name}={value}' for name, value in self.options)})"
        dtype = f"{self.dtype} (reduced range)" if self.reduce_range else self.dtype
        return f"{dtype} {'symmetric' if self.symmetric else 'asymmetric'} {shape} {method}"


@dataclass(frozen=True, slots=True)
class OpConfig:
    """How one operator is computed.

    Args:
        approach: "static", "dynamic", "weight_only", or "float" (not quantized).
        weight: scheme of the constant weight; None when there is none, or for "float".
        activation: scheme of the activations; None for "float" and for weight-only.
        float_type: type of the computation for "float", else the type around the quantized part.
    """

    approach: Approach
    weight: Scheme | None = None
    activation: Scheme | None = None
    float_type: str = "float32"

    @property
    def quantized(self) -> bool:
        return self.approach != "float"

    def to_dict(self) -> dict[str, Any]:
        data: dict[str, Any] = {"approach": self.approach}
        if self.weight is not None:
            data["weight"] = self.weight.to_dict()
        if self.activation is not None:
            data["activation"] = self.activation.to_dict()
        if self.float_type != "float32":
            data["float_type"] = self.float_type
        return data

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        schemes = {k: Scheme.from_dict(data[k]) for k in ("weight", "activation") if k in data}
        return cls(data["approach"], float_type=data.get("float_type", "float32"), **schemes)

    def __str__(self) -> str:
        if not self.quantized:
            return self.float_type
        parts = [f"weight {self.weight}"] if self.weight else []
        parts += [f"activation {self.activation}"] if self.activation else []
        return f"{self.approach}: {', '.join(parts)}"


FLOAT32 = OpConfig("float")
