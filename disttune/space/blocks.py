"""Transformer blocks of a model, found by its topology: the branches of its residual additions.

Pure. A residual addition adds a tensor and what was computed from it. All that was computed in between
is a branch; a branch is a block when
1. it holds a MatMul, Gemm or Attention with a constant weight, and at least two ops of the space; and
2. it holds no other branch like that (so a long skip connection around whole layers is none).
An attention and the feed-forward network behind it are two blocks, whatever the names, the kind of
normalisation and its place, and whether nodes were fused.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from disttune.space.summary import ModelSummary, OpSummary

ADDITIONS = ("Add", "Sum", "SkipLayerNormalization", "SkipSimplifiedLayerNormalization")
N_ADDED = 2  # the first inputs of a fused addition; the others are parameters
ANCHORS = ("MatMul", "Gemm", "Attention", "MultiHeadAttention", "FusedMatMul", "FusedGemm")


@dataclass(frozen=True, slots=True)
class Block:
    """One block.

    Args:
        name: its first and last op.
        ops: ops of the space, in graph order.
    """

    name: str
    ops: tuple[str, ...]


def transformer_blocks(summary: ModelSummary, ops: Collection[str]) -> tuple[Block, ...]:
    """Blocks in graph order.

    Args:
        summary: the model.
        ops: names of the ops of the space.
    """
    branches = [branch for branch in _branches(summary, frozenset(ops)) if branch]
    distinct = list(dict.fromkeys(branches))
    innermost = [b for b in distinct if not any(other < b for other in distinct)]
    blocks = []
    for branch in innermost:
        names = tuple(op for op in ops if op in branch)
        blocks.append(Block(f"{names[0]} to {names[-1]}", names))
    return tuple(blocks)


def _branches(summary: ModelSummary, ops: frozenset[str]) -> list[frozenset[str]]:
    producers = {tensor: i for i, op in enumerate(summary.ops) for tensor in op.outputs if tensor}
    branches = []
    for i, op in enumerate(summary.ops):
        added = [name for name in op.inputs[:N_ADDED] if name in producers or name in summary.inputs]
        if op.op_type not in ADDITIONS or len(added) < N_ADDED:
            continue  # what is neither computed nor given is a constant
        for skip, branch in (added, added[::-1]):
            found = _between(summary.ops, producers, skip, branch, i)
            members = frozenset(summary.ops[k].name for k in found) & ops
            if len(members) > 1 and any(_is_anchor(summary.ops[k]) for k in found):
                branches.append(members)
    return branches


def _between(
    nodes: tuple[OpSummary, ...], producers: Mapping[str, int], skip: str, end: str, addition: int
) -> list[int]:
    """Nodes that compute the tensor `end` from the tensor `skip`; none when it is not computed from it."""
    start = producers.get(skip, -1)
    if producers.get(end, -1) <= start:
        return []
    reached = {skip}  # forwards from the skip
    after = []
    for k in range(start + 1, addition):
        if not reached.isdisjoint(nodes[k].inputs):
            reached.update(nodes[k].outputs)
            after.append(k)
    if end not in reached:
        return []
    needed = {end}  # backwards from the end
    found = []
    for k in reversed(after):
        if not needed.isdisjoint(nodes[k].outputs):
            needed.update(nodes[k].inputs)
            found.append(k)
    return found[::-1]


def _is_anchor(op: OpSummary) -> bool:
    return op.op_type in ANCHORS and op.weight is not None
