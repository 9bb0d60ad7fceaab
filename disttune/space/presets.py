"""Whole-model candidates worth an early trial, whatever the space holds.

Pure. In this order, each over the ops of the space, within what the user's sections allow:
1. "Conv, MatMul and Gemm only": the default candidate with all other ops in float;
2. "percentile 99.99": the default candidate with this threshold method for all static activations;
3. "dynamic": every op that the target takes dynamically, the others in float;
4. "weights only": int8 weights per channel, activations in float.
2 to 4 may lie outside the space. One that quantizes nothing, or equals another, is left out.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace

from disttune.config.schemes import FLOAT32, OpConfig, Scheme, parse_method
from disttune.space.candidate import Candidate
from disttune.space.options import without_inert_parts
from disttune.space.summary import WeightSummary

HEAVY_TYPES = ("Conv", "MatMul", "Gemm")
METHOD = "percentile:99.99"
Allows = Callable[[str, str, object], bool]


def whole_model_presets(
    default: Candidate,
    types: Mapping[str, str],
    weights: Mapping[str, WeightSummary | None],
    dynamic: Mapping[str, OpConfig],
    allows: Allows,
    methods: Collection[str],
    approaches: Collection[str],
) -> dict[str, Candidate]:
    """Presets of a model, by name.

    Args:
        default: the space's default candidate.
        types: op to its type.
        weights: op to its constant weight.
        dynamic: ops that the target takes dynamically, with the config to use.
        allows: (op, part, value): whether the user's sections allow this value.
        methods: names of the threshold methods that the engine can do.
        approaches: that the engine can build.
    """
    made: dict[str, dict[str, OpConfig]] = {}
    configs = default.configs()
    made["Conv, MatMul and Gemm only"] = {
        op: c if types[op] in HEAVY_TYPES else FLOAT32 for op, c in configs.items()
    }
    if parse_method(METHOD)[0] in methods:
        made["percentile 99.99"] = {
            op: _clipped(c) if allows(op, "activation.method", METHOD) else c for op, c in configs.items()
        }
    if "dynamic" in approaches:
        made["dynamic"] = {op: _unless_float(c, dynamic.get(op, FLOAT32)) for op, c in configs.items()}
    if "weight_only" in approaches:
        made["weights only"] = {
            op: _unless_float(c, _weight_only(op, weights[op], allows)) for op, c in configs.items()
        }
    presets: dict[str, Candidate] = {}
    for name, chosen in made.items():
        candidate = Candidate.of(chosen, dict(default.recipes))
        if candidate.quantized_ops and candidate != default and candidate not in presets.values():
            presets[name] = candidate
    return presets


def _clipped(config: OpConfig) -> OpConfig:
    if config.approach != "static" or config.activation is None:
        return config
    method, parameter = parse_method(METHOD)
    return replace(config, activation=replace(config.activation, method=method, parameter=parameter))


def _unless_float(default: OpConfig, config: OpConfig) -> OpConfig:
    """What a recipe leaves in float by default stays there."""
    return config if default.quantized else FLOAT32


def _weight_only(op: str, weight: WeightSummary | None, allows: Allows) -> OpConfig:
    wanted = (("approach", "weight_only"), ("weight.dtype", "int8"), ("weight.symmetric", True))
    if weight is None or not all(allows(op, part, value) for part, value in wanted):
        return FLOAT32
    granularity = "per_channel" if allows(op, "weight.granularity", "per_channel") else "per_tensor"
    return without_inert_parts(OpConfig("weight_only", Scheme("int8", True, granularity)), weight)
