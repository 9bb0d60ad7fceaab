"""Float types of ops that are not quantized: those that the job holds ops to, or lets strategies try.

Pure. A type of 16 bits is never offered unasked: where the target computes it no faster it only lengthens
the search. A section that names one as `fallback` has it tried before float32.
"""

from collections.abc import Mapping

from disttune.config.quantization_section import QuantizationSection
from disttune.config.schemes import HALF_DTYPES
from disttune.space.capability import Capability
from disttune.space.merge import UserOptions
from disttune.space.summary import ModelSummary


def half_ops(
    summary: ModelSummary, capability: Capability, quantization: QuantizationSection
) -> dict[str, str]:
    """Ops that a job holds to a float type of 16 bits, to that type.

    Raises:
        InputError: a key matches no op, or the target lacks the type.
    """
    user = user_options(summary, capability, quantization)
    held = {op.name: user.held_in(op) for op in summary.ops if op.has_float_data}
    return {op: kind for op, kind in held.items() if kind in HALF_DTYPES}


def half_fallbacks(
    summary: ModelSummary, capability: Capability, quantization: QuantizationSection
) -> dict[str, str]:
    """Ops that strategies may put back to a float type of 16 bits, to that type; raises as `half_ops`."""
    user = user_options(summary, capability, quantization)
    first = {op.name: user.fallbacks(op)[0] for op in summary.ops}
    return {op: kind for op, kind in first.items() if kind in HALF_DTYPES}


def user_options(
    summary: ModelSummary, capability: Capability, quantization: QuantizationSection
) -> UserOptions:
    types = dict.fromkeys((*capability.float_types, *capability.half_types))
    return UserOptions(summary, quantization.op_types, quantization.op_names, tuple(types))


def float_types_of(
    asked: Mapping[str, tuple[str, ...]], capability: Capability
) -> tuple[tuple[str, ...], dict[str, tuple[str, ...]]]:
    """All types that ops can go back to, the first to try first, and those of each op where they differ.

    Args:
        asked: op to what its sections ask for, float32 at the end.
        capability: what the target offers to all ops.
    """
    usual = sorted(capability.float_types, key=lambda name: name == "float32")
    halves = dict.fromkeys(kind for kinds in asked.values() for kind in kinds if kind != "float32")
    if not halves:
        return tuple(usual), {}
    each = {op: tuple(dict.fromkeys((*kinds[:-1], *usual))) for op, kinds in asked.items()}
    return tuple(dict.fromkeys((*halves, *usual))), each
