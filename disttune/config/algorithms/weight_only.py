"""What configs of weight-only algorithms share: names of ONNX neural-compressor, the scheme of a weight."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from disttune.config.algorithms.algorithm_config import AlgorithmConfig
from disttune.config.algorithms.parameter import (
    boolean,
    model_level,
    names_or_none,
    one_of,
    option_of,
    per_op,
)
from disttune.config.errors import InputError
from disttune.config.schemes import FLOAT32, Approach, OpConfig, Scheme
from disttune.config.weight_methods import WEIGHT_METHODS, weight_options

_DTYPES = {"int": "int", "uint": "uint", "fp32": "fp32", "float32": "fp32"}
_ACTIVATIONS = {"fp32": "fp32", "float32": "fp32"}


def bits(parameter: str, value: Any) -> int:
    """Check for the bits of a weight."""
    if isinstance(value, bool) or not isinstance(value, int) or not 2 <= value <= 8:
        raise InputError(f"{parameter} must be 2 to 8; {value!r} was given")
    return value


def group_size(parameter: str, value: Any) -> int:
    """Check for the size of groups: -1, or at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or (value < 1 and value != -1):
        raise InputError(f"{parameter} must be -1 (per channel) or at least 1; {value!r} was given")
    return value


def providers(parameter: str, value: Any) -> tuple[str, ...]:
    """Check for execution providers: the peers' parameter; a job's are `model.providers`."""
    given = (value,) if isinstance(value, str) else value
    if not isinstance(given, list | tuple) or list(given) != ["CPUExecutionProvider"]:
        raise InputError(
            f'{parameter} must be ["CPUExecutionProvider"]; {value!r} was given. Calibration and trials run '
            "where model.providers says"
        )
    return tuple(given)


@dataclass(frozen=True)
class WeightOnlyConfig(AlgorithmConfig):
    """Parameters that all weight-only algorithms have; subclasses add theirs and `_options`.

    Args:
        weight_dtype: "int", "uint" (codes without a sign), or "fp32": left in float.
        weight_bits: 2 to 8.
        weight_group_size: rows that share a scale; -1: one scale for each column.
        weight_sym: weights with a fixed zero point.
        act_dtype: "fp32"; activations stay in float.
        accuracy_level: of MatMulNBits: 0 unset, 1 float32, 2 float16, 3 bfloat16, 4 int8.
    """

    approach: ClassVar[Approach] = "weight_only"
    method: ClassVar[str]

    weight_dtype: Any = field(default="int", metadata=per_op(one_of(_DTYPES)))
    weight_bits: int | Sequence[int] = field(default=4, metadata=per_op(bits))
    weight_group_size: int | Sequence[int] = field(default=32, metadata=per_op(group_size))
    weight_sym: bool | Sequence[bool] = field(default=True, metadata=per_op(boolean))
    act_dtype: Any = field(default="fp32", metadata=per_op(one_of(_ACTIVATIONS)))
    accuracy_level: int | Sequence[int] = field(
        default=0, metadata=per_op(option_of("rtn", "accuracy_level"))
    )
    quant_last_matmul: bool | Sequence[bool] = field(
        default=True, kw_only=True, metadata=model_level(boolean)
    )
    white_list: Any = field(default=None, kw_only=True, metadata=model_level(names_or_none, is_list=True))

    @property
    def needs_data(self) -> bool:
        return WEIGHT_METHODS[self.method].uses_data or any(c.needs_data for _, c in self.local)

    @property
    def op_types(self) -> tuple[str, ...]:
        """Op types that it quantizes."""
        return ("MatMul", "Gemm") if self.white_list is None else tuple(self.white_list)

    def _op_config(self) -> OpConfig:
        if self.weight_dtype == "fp32":
            return FLOAT32
        sign = "" if self.weight_sym and self.weight_dtype == "int" else "u"
        grouped = int(self.weight_group_size) != -1  # type: ignore[arg-type]
        options = {"accuracy_level": self.accuracy_level, **self._options()}
        return OpConfig(
            "weight_only",
            Scheme(
                f"{sign}int{self.weight_bits}",
                bool(self.weight_sym),
                "per_group" if grouped else self._without_groups(),
                int(self.weight_group_size) if grouped else None,  # type: ignore[arg-type]
                self.method,
                options=weight_options(self.method, options),
            ),
        )

    def _without_groups(self) -> str:
        return "per_channel"

    def _options(self) -> dict[str, object]:
        """Options of the weight method."""
        return {}
