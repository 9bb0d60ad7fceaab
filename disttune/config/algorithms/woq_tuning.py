"""The five weight-only configs that are worth trying first."""

from disttune.config.algorithms.awq import AWQConfig
from disttune.config.algorithms.gptq import GPTQConfig
from disttune.config.algorithms.rtn import RTNConfig
from disttune.config.algorithms.weight_only import WeightOnlyConfig


def get_woq_tuning_config() -> list[WeightOnlyConfig]:
    """4 bits with zero points: RTN and GPTQ, GPTQ without the last MatMul, GPTQ in groups of 128, and AWQ.

    Source: ONNX neural-compressor 1.0, the function of that name; the list and its order are the same.
    """
    return [
        RTNConfig(weight_sym=False),
        GPTQConfig(weight_sym=False),
        GPTQConfig(weight_sym=False, quant_last_matmul=False),
        GPTQConfig(weight_group_size=128, weight_sym=False),
        AWQConfig(weight_sym=False),
    ]
