"""Precisions of an op by name: W4A8 is 4-bit weights with 8-bit activations, W4 is 4-bit weights alone.

Pure. A precision holds a config for every op that the target takes in it, within what the user's sections
allow:
1. W<bits>A<bits>: the op's first option with activations (below 8 bits the first with several scales, where
   there is one), its types changed to these widths; of an op without a weight the activations alone.
2. W<bits>: weights alone, beside float activations: the first values of the target's rows, or, where its rows
   lack the op, one scale for each channel.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

from disttune.config.schemes import Approach, OpConfig, Scheme, parse_scheme_method
from disttune.space.capability import WEIGHT_ONLY, Capability, CapabilityRow, TensorOptions
from disttune.space.options import without_inert_parts
from disttune.space.summary import OpSummary

WITH_ACTIVATIONS = ("W4A8", "W8A8", "W4A16", "W8A16", "W16A8", "W16A16")
WEIGHTS_ALONE = ("W2", "W3", "W4", "W5", "W6", "W7", "W8", "W16")
Allows = Callable[[OpSummary, str, object], bool]


@dataclass(frozen=True)
class Precision:
    """One precision of a model.

    Args:
        name: e.g. "W8A16".
        configs: op to its config, for the ops that the target takes in this precision.
        fused: whether the target computes some op with a weight in it on codes, or has a kernel for it.
        offered: whether it is tried unless the user names others: fused, or the job asks for placement "all".
    """

    name: str
    configs: Mapping[str, OpConfig] = field(default_factory=dict)
    fused: bool = False
    offered: bool = False


def precision_name(config: OpConfig) -> str:
    """The name of a config's precision: "float", "W8A8", "W4", or "A8" without a weight."""
    if not config.quantized:
        return "float"
    parts = (("W", config.weight), ("A", config.activation))
    return "".join(f"{letter}{bits_of(scheme.dtype)}" for letter, scheme in parts if scheme)


def is_of(config: OpConfig, name: str) -> bool:
    """Whether a config is of the precision with this name; without a weight its activations decide."""
    own = precision_name(config)
    return own == name or (own.startswith("A") and name.endswith(own))


def bits_of(dtype: str) -> int:
    """Width of a type: 4 of "uint4", 8 of "float8e4m3fn"."""
    found = re.search(r"\d+", dtype)
    assert found is not None
    return int(found.group())


def model_precisions(
    ops: Iterable[OpSummary],
    options: Mapping[str, Sequence[OpConfig]],
    capability: Capability,
    allows: Allows,
    methods: Iterable[str],
    approaches: Iterable[str],
    placement: str,
) -> dict[str, Precision]:
    """Every precision that some op can have, by name.

    Args:
        ops: of the model.
        options: op to its options in the space.
        capability: of the target.
        allows: (op, part, value): whether the user's sections allow this value.
        methods: names of the threshold and weight methods that the engine can do.
        approaches: that the engine can build.
        placement: of the job.
    """
    ops = [op for op in ops if op.name in options]
    known = frozenset(methods)
    precisions: dict[str, Precision] = {}
    alone = WEIGHTS_ALONE if WEIGHT_ONLY in approaches else ()
    for name in (*WITH_ACTIVATIONS, *alone):
        configs: dict[str, OpConfig] = {}
        fused = False
        for op in ops:
            wanted = _wanted(name, op, options[op.name], capability, known)
            if wanted is not None and _allowed(op, wanted, allows):
                configs[op.name] = wanted
                fused = fused or (op.weight is not None and _is_fused(op, wanted, capability))
        if configs:
            precisions[name] = Precision(name, configs, fused, fused or placement == "all")
    return precisions


def _wanted(
    name: str, op: OpSummary, options: Sequence[OpConfig], capability: Capability, methods: frozenset[str]
) -> OpConfig | None:
    """The config of an op in a precision; None where the target does not take it."""
    weight_bits, _, activation_bits = name[1:].partition("A")
    if not activation_bits:
        return _weights_alone(int(weight_bits), op, capability, methods)
    coded = [o for o in options if o.activation is not None]
    if int(weight_bits) < 8:  # one scale is too few
        coded.sort(key=lambda o: o.weight is not None and o.weight.granularity == "per_tensor")
    template = next(iter(coded), None)
    if template is None or template.activation is None:
        return None
    activation = _of_width(template.activation, int(activation_bits))
    weight = None if template.weight is None else _of_width(template.weight, int(weight_bits))
    config = replace(template, weight=weight, activation=activation)
    return config if any(_takes(row, op, config) for row in capability.rows) else None


def _of_width(scheme: Scheme, bits: int) -> Scheme:
    """The scheme on codes of another width; the threshold method and its parameter stay."""
    sign = "u" if scheme.dtype.startswith("u") else ""
    return replace(scheme, dtype=f"{sign}int{bits}")


def _weights_alone(
    bits: int,
    op: OpSummary,
    capability: Capability,
    methods: frozenset[str],
) -> OpConfig | None:
    if op.weight is None:
        return None
    rows = [r for r in capability.rows if r.approach == WEIGHT_ONLY and op.op_type in r.op_types]
    for row in rows:
        scheme = None if row.weight is None else _first_scheme(row.weight, bits, methods)
        if scheme is not None:
            return without_inert_parts(OpConfig(cast(Approach, WEIGHT_ONLY), scheme), op.weight)
    if rows or f"int{bits}" not in capability.weights_alone or bits < 8:
        return None
    scheme = Scheme(f"int{bits}", True, "per_channel")
    return without_inert_parts(OpConfig(cast(Approach, WEIGHT_ONLY), scheme), op.weight)


def _first_scheme(options: TensorOptions, bits: int, methods: frozenset[str]) -> Scheme | None:
    """The first values of a row, with a type of this width and a method that the engine knows."""
    dtype = next((d for d in options.dtype if d in (f"int{bits}", f"uint{bits}")), None)
    method = next((m for m in options.method if m.partition(":")[0] in methods), None)
    if dtype is None or method is None:
        return None
    grouped = options.granularity[0] == "per_group"
    name, parameter, chosen = parse_scheme_method(method)
    symmetric, size = options.symmetric[0], options.group_size[0] if grouped else None
    return Scheme(dtype, symmetric, options.granularity[0], size, name, parameter, chosen)


def _takes(row: CapabilityRow, op: OpSummary, config: OpConfig) -> bool:
    """Whether a row holds the types and the shape of a config, whatever its methods."""
    if op.op_type not in row.op_types or row.approach != config.approach:
        return False
    pairs = ((config.weight, row.weight), (config.activation, row.activation))
    return all(s is None or (options is not None and _holds(options, s)) for s, options in pairs)


def _holds(options: TensorOptions, scheme: Scheme) -> bool:
    return (
        scheme.dtype in options.dtype
        and scheme.symmetric in options.symmetric
        and (scheme.granularity in options.granularity or scheme.granularity == "per_tensor")
    )


def _allowed(op: OpSummary, config: OpConfig, allows: Allows) -> bool:
    parts: list[tuple[str, object]] = [("approach", config.approach)]
    parts += [("weight.dtype", config.weight.dtype)] if config.weight else []
    parts += [("activation.dtype", config.activation.dtype)] if config.activation else []
    return all(allows(op, part, value) for part, value in parts)


def _is_fused(op: OpSummary, config: OpConfig, capability: Capability) -> bool:
    if config.approach == WEIGHT_ONLY:
        rows = [r for r in capability.rows if r.approach == WEIGHT_ONLY and r.placement == "speed"]
        return any(op.op_type in r.op_types for r in rows)
    return any(row.placement == "speed" and _takes(row, op, config) for row in capability.rows)
