"""AWQ: inputs are scaled so that salient weights lose less. Names as ONNX neural-compressor's AWQConfig."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from disttune.config.algorithms.parameter import boolean, model_level
from disttune.config.algorithms.registry import register_algorithm
from disttune.config.algorithms.weight_only import WeightOnlyConfig, providers


@register_algorithm("awq")
@dataclass(frozen=True)
class AWQConfig(WeightOnlyConfig):
    """Each parameter is one value or a list of values to try; first those of the op, then those of the model.

    Beside those of `WeightOnlyConfig`:

    Args:
        enable_auto_scale: search the scales of the inputs.
        enable_mse_search: search the range of each group.
        sequential: inputs from the model quantized so far, as the paper; False: from the float model.
        providers: ["CPUExecutionProvider"]; a list of lists holds several values.
        quant_last_matmul: False leaves the last MatMul of the graph in float.
        white_list: op types; None: MatMul and Gemm. A list of lists holds several values.
    """

    method: ClassVar[str] = "awq"

    enable_auto_scale: bool | Sequence[bool] = field(default=True, metadata=model_level(boolean))
    enable_mse_search: bool | Sequence[bool] = field(default=True, metadata=model_level(boolean))
    sequential: bool | Sequence[bool] = field(default=True, metadata=model_level(boolean))
    providers: Any = field(default=("CPUExecutionProvider",), metadata=model_level(providers, is_list=True))

    def _options(self) -> dict[str, object]:
        return {
            "scale_search": self.enable_auto_scale,
            "clip_search": self.enable_mse_search,
            "sequential": self.sequential,
        }

    @classmethod
    def get_config_set_for_tuning(cls) -> Self:
        """The peer's list: bits, symmetry, scale search, range search."""
        both = [True, False]
        return cls(weight_bits=[4, 8], weight_sym=both, enable_auto_scale=both, enable_mse_search=both)
