"""Quantizer groups: ops that share a quantizer, and so have one precision.

Pure. These belong together:
1. an op that passes data on, or clips it, and the op that makes its data;
2. ops that read one weight.

Source: AIMET, quantizer groups of automatic mixed precision. What we do differently: an activation function
that onnxruntime merges into the op before belongs to it.
"""

from collections.abc import Iterable

from disttune.space.summary import ModelSummary

PASS_THROUGH = frozenset((
    "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Gather", "GatherElements",
    "GatherND", "Expand", "Tile", "Split", "Pad", "Resize", "DepthToSpace", "SpaceToDepth", "Identity",
    "MaxPool", "ReduceMax", "ReduceMin", "Relu", "Clip",
))  # fmt: skip


def quantizer_groups(summary: ModelSummary, ops: Iterable[str]) -> tuple[tuple[str, ...], ...]:
    """The groups of some ops, each in graph order, in the order of their first ops.

    Args:
        summary: of the model.
        ops: names of those to be grouped.
    """
    chosen = set(ops)
    leaders: dict[str, str] = {}
    makers: dict[str, str] = {}  # tensor -> op whose data it holds
    weights: dict[str, str] = {}

    def leader(op: str) -> str:
        while leaders[op] != op:
            op = leaders[op]
        return op

    for op in summary.ops:
        source = makers.get(next(filter(None, op.inputs), ""))
        passes_on = op.op_type in PASS_THROUGH and op.weight is None
        if op.name in chosen:
            leaders[op.name] = op.name
            same = [source] if passes_on and source is not None else []
            same += [weights[op.weight.name]] if op.weight and op.weight.name in weights else []
            for other in same:
                leaders[leader(op.name)] = leader(other)
            if op.weight:
                weights.setdefault(op.weight.name, op.name)
            makers |= dict.fromkeys(op.outputs, op.name)
        elif passes_on and source is not None:  # not quantized itself, it hands the codes through
            makers |= dict.fromkeys(op.outputs, source)
    groups: dict[str, list[str]] = {}
    for name in leaders:
        groups.setdefault(leader(name), []).append(name)
    return tuple(sorted(map(tuple, groups.values()), key=lambda group: list(leaders).index(group[0])))
