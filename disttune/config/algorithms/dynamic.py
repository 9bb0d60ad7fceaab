"""Dynamic quantization: ranges of activations measured at each inference, so no calibration data.

Names and order of the parameters are those of ONNX neural-compressor's DynamicQuantConfig.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from disttune.config.algorithms.algorithm_config import AlgorithmConfig
from disttune.config.algorithms.parameter import (
    always_false,
    boolean,
    model_level,
    names,
    names_or_none,
    one_of,
    per_op,
)
from disttune.config.algorithms.registry import register_algorithm
from disttune.config.schemes import Approach, OpConfig, Scheme

_WEIGHT_TYPES = {"int8": "int8", "uint8": "uint8", "QInt8": "int8", "QUInt8": "uint8"}
_ACTIVATION_TYPES = {"uint8": "uint8", "QUInt8": "uint8"}


@register_algorithm("dynamic")
@dataclass(frozen=True)
class DynamicQuantConfig(AlgorithmConfig):
    """Each parameter is one value or a list of values to try; first those of the op, then those of the model.

    Args:
        weight_type: "int8" or "uint8", or "QInt8", "QUInt8" or the `QuantType` of that name.
        activation_type: "uint8"; DynamicQuantizeLinear makes nothing else.
        per_channel: one scale for each channel of a weight instead of one for the tensor.
        weight_sym: weights with a fixed zero point.
        activation_sym: False; DynamicQuantizeLinear makes nothing else.
        quant_last_matmul: False leaves the last MatMul of the graph in float.
        op_types_to_quantize: operator types; None stands for all of the target. A list of lists holds
            several values.
        nodes_to_exclude: names of nodes left in float. A list of lists holds several values.
    """

    approach: ClassVar[Approach] = "dynamic"

    weight_type: Any = field(default="int8", metadata=per_op(one_of(_WEIGHT_TYPES)))
    activation_type: Any = field(default="uint8", metadata=per_op(one_of(_ACTIVATION_TYPES)))
    per_channel: bool | Sequence[bool] = field(default=False, metadata=per_op(boolean))
    weight_sym: bool | Sequence[bool] = field(default=True, metadata=per_op(boolean))
    activation_sym: bool | Sequence[bool] = field(
        default=False, metadata=per_op(always_false("activations of dynamic quantization are asymmetric"))
    )
    quant_last_matmul: bool | Sequence[bool] = field(default=True, metadata=model_level(boolean))
    op_types_to_quantize: Any = field(default=None, metadata=model_level(names_or_none, is_list=True))
    nodes_to_exclude: Any = field(default=(), metadata=model_level(names, is_list=True))

    def _op_config(self) -> OpConfig:
        granularity = "per_channel" if self.per_channel else "per_tensor"
        return OpConfig(
            "dynamic",
            weight=Scheme(self.weight_type, bool(self.weight_sym), granularity),
            activation=Scheme(self.activation_type, bool(self.activation_sym)),
        )
