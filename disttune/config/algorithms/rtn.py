"""RTN: weights alone, rounded to the nearest code. Names as ONNX neural-compressor's RTNConfig."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from disttune.config.algorithms.parameter import boolean, model_level, per_op
from disttune.config.algorithms.registry import register_algorithm
from disttune.config.algorithms.weight_only import WeightOnlyConfig, providers
from disttune.config.errors import InputError


def _no_ratios(parameter: str, value: Any) -> None:
    """Check for the peers' ratios of ranges: here `mse` finds them."""
    if value not in ({}, None):
        raise InputError(f"{parameter} must be empty: mse=True searches the ranges; {value!r} was given")


@register_algorithm("rtn")
@dataclass(frozen=True)
class RTNConfig(WeightOnlyConfig):
    """Each parameter is one value or a list of values to try; first those of the op, then those of the model.

    Beside those of `WeightOnlyConfig`:

    Args:
        ratios: empty; the peer's shares of ranges are found by `mse`.
        mse: search each group's range for the least squared error.
        providers: ["CPUExecutionProvider"]; a list of lists holds several values.
        layer_wise_quant: changes nothing here: layers are always quantized one by one.
        quant_last_matmul: False leaves the last MatMul of the graph in float.
        white_list: op types; None: MatMul and Gemm. (The peer's is ["MatMul"].) A list of lists holds
            several values.
    """

    method: ClassVar[str] = "rtn"

    ratios: Any = field(default=None, metadata=per_op(_no_ratios))
    mse: bool | Sequence[bool] = field(default=False, metadata=per_op(boolean))
    providers: Any = field(default=("CPUExecutionProvider",), metadata=model_level(providers, is_list=True))
    layer_wise_quant: bool | Sequence[bool] = field(default=False, metadata=model_level(boolean))

    def _options(self) -> dict[str, object]:
        return {"mse": self.mse}

    @classmethod
    def get_config_set_for_tuning(cls) -> Self:
        """The peer's list: bits 4 and 8, symmetric or not."""
        return cls(weight_bits=[4, 8], weight_sym=[True, False])
