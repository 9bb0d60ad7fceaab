"""HQQ: the zero point moves so that most weights lose little; without data. Names as neural-compressor's."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from disttune.config.algorithms.parameter import always_false, boolean, option_of, per_op
from disttune.config.algorithms.registry import register_algorithm
from disttune.config.algorithms.weight_only import WeightOnlyConfig, group_size


@register_algorithm("hqq")
@dataclass(frozen=True)
class HQQConfig(WeightOnlyConfig):
    """Each parameter is one value or a list of values to try; first those of the op, then those of the model.

    Beside those of `WeightOnlyConfig`; groups have 64 rows unless told otherwise, and a zero point:

    Args:
        iterations: at most.
        float_zero_point: zero points between codes; up to 4 bits, MatMulNBits alone.
        quant_last_matmul: False leaves the last MatMul of the graph in float.
        white_list: op types; None: MatMul and Gemm. A list of lists holds several values.
    """

    method: ClassVar[str] = "hqq"

    weight_group_size: int | Sequence[int] = field(default=64, metadata=per_op(group_size))
    weight_sym: bool | Sequence[bool] = field(
        default=False, metadata=per_op(always_false("hqq moves zero points"))
    )
    iterations: int | Sequence[int] = field(default=20, metadata=per_op(option_of("hqq", "iterations")))
    float_zero_point: bool | Sequence[bool] = field(default=False, metadata=per_op(boolean))

    def _options(self) -> dict[str, object]:
        return {"iterations": self.iterations, "float_zero_point": self.float_zero_point}
