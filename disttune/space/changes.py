"""Candidates and spaces made from others: recipes switched, ops moved to another approach.

Pure.
"""

from collections.abc import Iterable
from dataclasses import replace

from disttune.config.recipes import RECIPES, RecipeValue
from disttune.config.schemes import OpConfig
from disttune.config.weight_methods import parse_weight_method
from disttune.space.candidate import Candidate
from disttune.space.space import Space
from disttune.space.summary import ModelSummary

ROUNDED_TYPES = ("Conv", "ConvTranspose", "MatMul", "Gemm")
_TENSORS = ("activation", "weight")
_PARTS = (("dtype", "symmetric"), ("method", "parameter"), ("granularity", "group_size"))


def with_recipes_switched(space: Space, candidate: Candidate, recipes: Iterable[str]) -> Candidate:
    """The candidate with these open recipes set to what they are not by default.

    Args:
        space: that names the recipes and their ops.
        candidate: to start from; ops that come back from float take their default option.
        recipes: keys of `space.float_recipes`.
    """
    switched = frozenset(recipes)
    off = space.recipes_off ^ switched
    in_float = frozenset().union(*(space.float_recipes[r] for r in off & switched))
    stays = frozenset().union(*(space.float_recipes[r] for r in off))
    back = frozenset().union(*(space.float_recipes[r] for r in switched - off)) - stays
    return candidate.in_float(*(op for op in space.ops if op in in_float)).with_configs(
        {op: space.options[op][0] for op in space.ops if op in back}
    )


def with_recipe(space: Space, recipe: str, value: RecipeValue) -> Space:
    """The space with a recipe set in all its candidates; where that is its default they do not name it."""
    recipes = {name: held for name, held in space.recipes.items() if name != recipe}
    if value != RECIPES[recipe].default:
        recipes[recipe] = value
    presets = {name: Candidate.of(c.configs(), recipes) for name, c in space.presets.items()}
    return replace(space, recipes=recipes, presets=presets)


def with_weight_method(candidate: Candidate, summary: ModelSummary, text: str) -> Candidate:
    """The candidate with a weight algorithm for all weights of convolutions and products.

    Args:
        candidate: its dynamic ops stay as they are.
        summary: of the model.
        text: of the method, as users write it: "adaround", "gptq:flip=true".
    Raises:
        InputError: the method or an option is unknown.
    """
    changes = {}
    method, options = parse_weight_method(text)
    known = frozenset(candidate.ops)
    for op in (op for op in summary.ops if op.name in known):
        config = candidate.config_of(op.name)
        if op.op_type in ROUNDED_TYPES and op.weight and config.weight and config.approach != "dynamic":
            weight = replace(config.weight, method=method, parameter=None, options=options)
            changes[op.name] = replace(config, weight=weight)
    return candidate.with_configs(changes)


def in_approach(space: Space, approach: str | None = None) -> Space:
    """The space with one approach for each op.

    Args:
        space: with any number of approaches.
        approach: for every op that has it; the others, and with None all of them, keep that of their
            default option.
    """

    def limited(options: tuple[OpConfig, ...]) -> tuple[OpConfig, ...]:
        wanted = approach if any(o.approach == approach for o in options) else options[0].approach
        return tuple(o for o in options if o.approach == wanted)

    return replace(space, options={op: limited(options) for op, options in space.options.items()})


def has_both_approaches(space: Space) -> tuple[str, ...]:
    """Ops that can be quantized statically and dynamically."""
    return tuple(
        op for op, options in space.options.items() if {"static", "dynamic"} <= {o.approach for o in options}
    )


def switched_to(space: Space, candidate: Candidate, approach: str) -> Candidate:
    """The candidate with every static or dynamic op that has this approach moved to it.

    Each op keeps what its config and an option of that approach have in common; of several such options
    the first is taken.
    """
    changes = {}
    for op in candidate.quantized_ops:
        options = [o for o in space.options[op] if o.approach == approach]
        if options and candidate.config_of(op).approach in {"static", "dynamic"} - {approach}:
            changes[op] = _closest(candidate.config_of(op), options)
    return candidate.with_configs(changes)


def _closest(config: OpConfig, options: list[OpConfig]) -> OpConfig:
    for tensor in _TENSORS:
        for part in _PARTS:
            same = [o for o in options if _value(o, tensor, part) == _value(config, tensor, part)]
            options = same or options
    return options[0]


def _value(config: OpConfig, tensor: str, part: tuple[str, str]) -> tuple[object, ...]:
    scheme = getattr(config, tensor)
    return tuple(getattr(scheme, name, None) for name in part)
