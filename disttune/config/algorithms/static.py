"""Static quantization: ranges of activations measured on calibration data.

Names and order of the parameters are those of ONNX neural-compressor's StaticQuantConfig; left out is
what does not apply here (the reader is handed to `autotune`, external data is written when needed).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from disttune.config.algorithms.algorithm_config import AlgorithmConfig
from disttune.config.algorithms.parameter import (
    at_least,
    boolean,
    method_of,
    model_level,
    names,
    names_or_none,
    one_of,
    per_op,
)
from disttune.config.algorithms.registry import register_algorithm
from disttune.config.schemes import Approach, OpConfig, Scheme, parse_method

_TYPES = {"int8": "int8", "uint8": "uint8", "QInt8": "int8", "QUInt8": "uint8"}
_METHODS = {
    "minmax": "minmax", "entropy": "entropy", "percentile": "percentile", "distribution": "distribution",
    "MinMax": "minmax", "Entropy": "entropy", "Percentile": "percentile", "Distribution": "distribution",
}  # fmt: skip
_FORMATS = {"qdq": "qdq", "qoperator": "qoperator", "QDQ": "qdq", "QOperator": "qoperator"}


@register_algorithm("static")
@dataclass(frozen=True)
class StaticQuantConfig(AlgorithmConfig):
    """Each parameter is one value or a list of values to try; first those of the op, then those of the model.

    Args:
        weight_type: "int8" or "uint8", or "QInt8", "QUInt8" or the `QuantType` of that name.
        activation_type: the same.
        per_channel: one scale for each channel of a weight instead of one for the tensor.
        weight_sym: weights with a fixed zero point.
        activation_sym: activations with a fixed zero point.
        calibrate_method: "MinMax", "Entropy", "Percentile" or "Distribution", the `CalibrationMethod` of
            that name, or as in a job file ("percentile:99.99").
        quant_format: "qdq" or "qoperator", or the `QuantFormat` of that name. (The peer's default is
            QOperator.)
        calibration_sampling_size: samples to calibrate with. (The peer counts batches.)
        quant_last_matmul: False leaves the last MatMul of the graph in float.
        op_types_to_quantize: operator types; None stands for all of the target. A list of lists holds
            several values.
        nodes_to_exclude: names of nodes left in float. A list of lists holds several values.
    """

    approach: ClassVar[Approach] = "static"

    weight_type: Any = field(default="int8", metadata=per_op(one_of(_TYPES)))
    activation_type: Any = field(default="uint8", metadata=per_op(one_of(_TYPES)))
    per_channel: bool | Sequence[bool] = field(default=False, metadata=per_op(boolean))
    weight_sym: bool | Sequence[bool] = field(default=True, metadata=per_op(boolean))
    activation_sym: bool | Sequence[bool] = field(default=False, metadata=per_op(boolean))
    calibrate_method: Any = field(default="minmax", metadata=per_op(method_of(_METHODS)))
    quant_format: Any = field(default="qdq", metadata=model_level(one_of(_FORMATS)))
    calibration_sampling_size: int | Sequence[int] = field(default=100, metadata=model_level(at_least(1)))
    quant_last_matmul: bool | Sequence[bool] = field(default=True, metadata=model_level(boolean))
    op_types_to_quantize: Any = field(default=None, metadata=model_level(names_or_none, is_list=True))
    nodes_to_exclude: Any = field(default=(), metadata=model_level(names, is_list=True))

    def _op_config(self) -> OpConfig:
        method, parameter = parse_method(self.calibrate_method)
        granularity = "per_channel" if self.per_channel else "per_tensor"
        return OpConfig(
            "static",
            weight=Scheme(self.weight_type, bool(self.weight_sym), granularity),
            activation=Scheme(
                self.activation_type, bool(self.activation_sym), method=method, parameter=parameter
            ),
        )
