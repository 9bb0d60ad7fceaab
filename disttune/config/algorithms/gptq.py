"""GPTQ: rows of a weight make up for each other's rounding. Names as ONNX neural-compressor's GPTQConfig."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from disttune.config.algorithms.parameter import boolean, model_level, option_of
from disttune.config.algorithms.registry import register_algorithm
from disttune.config.algorithms.weight_only import WeightOnlyConfig, providers


@register_algorithm("gptq")
@dataclass(frozen=True)
class GPTQConfig(WeightOnlyConfig):
    """Each parameter is one value or a list of values to try; first those of the op, then those of the model.

    Beside those of `WeightOnlyConfig`:

    Args:
        percdamp: damping, as a share of the mean of the Gram matrix's diagonal.
        block_size: rows whose errors are kept up to date at once; speed alone.
        actorder: rows by falling size of their inputs; groups keep their place ("static groups").
        mse: search each range for the least squared error.
        perchannel: False, without groups: one scale for the whole weight.
        flip: coordinate descent afterwards.
        sequential: inputs from the model quantized so far, as the paper; False: from the float model.
        providers: ["CPUExecutionProvider"]; a list of lists holds several values.
        layer_wise_quant: changes nothing here: layers are always quantized one by one.
        quant_last_matmul: False leaves the last MatMul of the graph in float.
        white_list: op types; None: MatMul and Gemm. A list of lists holds several values.
    """

    method: ClassVar[str] = "gptq"

    percdamp: float | Sequence[float] = field(
        default=0.01, metadata=model_level(option_of("gptq", "percdamp"))
    )
    block_size: int | Sequence[int] = field(
        default=128, metadata=model_level(option_of("gptq", "block_size"))
    )
    actorder: bool | Sequence[bool] = field(default=False, metadata=model_level(boolean))
    mse: bool | Sequence[bool] = field(default=False, metadata=model_level(boolean))
    perchannel: bool | Sequence[bool] = field(default=True, metadata=model_level(boolean))
    flip: bool | Sequence[bool] = field(default=False, metadata=model_level(boolean))
    sequential: bool | Sequence[bool] = field(default=True, metadata=model_level(boolean))
    providers: Any = field(default=("CPUExecutionProvider",), metadata=model_level(providers, is_list=True))
    layer_wise_quant: bool | Sequence[bool] = field(default=False, metadata=model_level(boolean))

    def _without_groups(self) -> str:
        return "per_channel" if self.perchannel else "per_tensor"

    def _options(self) -> dict[str, object]:
        return {
            "percdamp": self.percdamp,
            "block_size": self.block_size,
            "act_order": self.actorder,
            "mse": self.mse,
            "flip": self.flip,
            "sequential": self.sequential,
        }

    @classmethod
    def get_config_set_for_tuning(cls) -> Self:
        """The peer's list: bits, symmetry, order, range search, scales of columns."""
        both = [True, False]
        return cls(weight_bits=[4, 8], weight_sym=both, actorder=both, mse=both, perchannel=both)
