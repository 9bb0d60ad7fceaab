"""The recipe `reduce_range` as schemes: which weights of a candidate take one bit less.

x86 CPUs without VNNI add two products of uint8 and int8 in 16 bits, and saturate: 2 * 255 * 127 is more than
32767, 2 * 255 * 64 is not. onnxruntime rewrites int8 activations to uint8 there. Hence the int8 weights of
ops that are computed on 8-bit codes: static Conv, MatMul and Gemm, and every dynamic op. Sums of uint8 and
uint8 have 32 bits; weights alone and 16-bit activations are computed in float.

Source: onnxruntime.ai/docs/performance/model-optimizations/quantization.html, "When and why do I need to try
U8U8"; there the reduced range is for U8S8 on AVX2 and AVX512.
"""

from collections.abc import Mapping
from dataclasses import replace

from disttune.config.recipes import REDUCE_RANGE
from disttune.config.schemes import OpConfig
from disttune.space.candidate import Candidate

_TYPES = ("Conv", "MatMul", "Gemm")
_EIGHT_BITS = ("int8", "uint8")


def with_reduced_ranges(candidate: Candidate, op_types: Mapping[str, str]) -> Candidate:
    """The candidate without the recipe, its weights as the recipe says.

    Args:
        op_types: of the model's nodes, by name.
    """
    recipes = dict(candidate.recipes)
    is_reduced = recipes.pop(REDUCE_RANGE, False)
    plain = replace(candidate, recipes=tuple(recipes.items()))
    if not is_reduced:
        return plain
    configs = candidate.configs().items()
    return plain.with_configs(
        {op: _reduced(config) for op, config in configs if _saturates(config, op_types.get(op, ""))}
    )


def _saturates(config: OpConfig, op_type: str) -> bool:
    if config.weight is None or config.weight.dtype != "int8":
        return False
    if config.approach == "dynamic":
        return True
    activation = config.activation.dtype if config.activation else ""
    return config.approach == "static" and op_type in _TYPES and activation in _EIGHT_BITS


def _reduced(config: OpConfig) -> OpConfig:
    assert config.weight is not None
    return replace(config, weight=replace(config.weight, reduce_range=True))
