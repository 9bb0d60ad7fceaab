"""Recipes that leave ops of the space in float: which ops each of them means in a model.

Pure. The anchors are the first and the last Conv, MatMul or Gemm of the space, in graph order:
1. `first_conv_or_matmul_quantization` off: the first anchor stays in float;
2. `last_conv_or_matmul_quantization` off: the last anchor stays in float;
3. `pre_post_process_quantization` off: every op that is on no path from the first anchor to the last.
A recipe that is fixed on changes nothing; one that is fixed off takes its ops out of the space.

Source: INC 2.6, recipes of the ONNX Runtime adaptor.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from disttune.config.recipes import RecipeValue
from disttune.space.summary import ModelSummary, OpSummary

ANCHORS = ("Conv", "MatMul", "Gemm")
FLOAT_RECIPES = (
    "first_conv_or_matmul_quantization",
    "last_conv_or_matmul_quantization",
    "pre_post_process_quantization",
)


@dataclass(frozen=True, slots=True)
class FloatRecipes:
    """What these recipes mean for one model.

    Args:
        fixed: op to the recipe that takes it out of the space.
        open: recipe to the ops that it leaves in float when it is off; recipes that mean no op, or
            every op, are not worth a trial and are left out.
        sets: distinct sets of ops that the open recipes leave in float, never all ops: the default
            first, then with one recipe other than by default, then with two, and so on.
        off: the open recipes that are off by default.
    """

    fixed: Mapping[str, str]
    open: Mapping[str, frozenset[str]]
    sets: tuple[frozenset[str], ...]
    off: frozenset[str] = frozenset()


def resolve_float_recipes(
    summary: ModelSummary, ops: Collection[str], given: Mapping[str, tuple[RecipeValue, ...]]
) -> FloatRecipes:
    """Which ops the recipes leave in float.

    Args:
        summary: the whole model.
        ops: names of the ops that have options.
        given: recipe to the values that the job lists, the default first; left out: open, on first.
    """
    meant = _meant(summary, ops)
    values = {recipe: given.get(recipe, (True, False)) for recipe in meant}
    fixed = {op: r for r in meant if values[r] == (False,) for op in ops if op in meant[r]}
    left = [op for op in ops if op not in fixed]
    recipes = {r: meant[r] - fixed.keys() for r in meant if len(values[r]) > 1}
    recipes = {r: names for r, names in recipes.items() if 0 < len(names) < len(left)}
    off_first = {r for r in recipes if values[r][0] is False}
    changes = (set(some) for n in range(len(recipes) + 1) for some in combinations(recipes, n))
    unions = (frozenset().union(*(recipes[r] for r in off_first ^ changed)) for changed in changes)
    sets = tuple(dict.fromkeys(u for u in unions if len(u) < len(left)))
    return FloatRecipes(fixed, recipes, sets, frozenset(off_first))


def _meant(summary: ModelSummary, ops: Collection[str]) -> dict[str, frozenset[str]]:
    anchors = [op for op in summary.ops if op.op_type in ANCHORS and op.name in ops]
    if not anchors:
        return {}
    first, last = anchors[0], anchors[-1]
    between = _after(first, summary.ops) & _before(last, summary.ops) | {first.name, last.name}
    sets = ({first.name}, {last.name}, set(ops) - between)
    return dict(zip(FLOAT_RECIPES, map(frozenset, sets), strict=True))


def _after(start: OpSummary, ops: Sequence[OpSummary]) -> set[str]:
    """Ops that what `start` computes can reach."""
    tensors, names = set(start.outputs), set()
    for op in ops:
        if not tensors.isdisjoint(op.inputs):
            tensors.update(op.outputs)
            names.add(op.name)
    return names


def _before(end: OpSummary, ops: Sequence[OpSummary]) -> set[str]:
    """Ops from which `end` can be reached."""
    tensors, names = set(end.inputs), set()
    for op in reversed(ops):
        if not tensors.isdisjoint(op.outputs):
            tensors.update(op.inputs)
            names.add(op.name)
    return names
