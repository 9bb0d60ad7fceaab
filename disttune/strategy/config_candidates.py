"""Config sets as candidates: what each config stands for, and the space that a set spans."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from disttune.config.algorithms import AlgorithmConfig, config_from_dict, expand_config_set
from disttune.config.algorithms.weight_only import WeightOnlyConfig
from disttune.config.errors import InputError
from disttune.config.nearest import unknown_name
from disttune.config.recipes import RECIPES, RecipeValue
from disttune.config.schemes import FLOAT32, OpConfig
from disttune.space.candidate import Candidate
from disttune.space.options import without_inert_parts
from disttune.space.space import Space
from disttune.strategy.tuning import Tuning


def expanded(configs: Sequence[AlgorithmConfig | Mapping[str, Any]]) -> list[AlgorithmConfig]:
    """Single-valued configs, in the order of the lists.

    Args:
        configs: algorithm configs, or their dicts as a job file has them.
    Raises:
        InputError: there is none, or one of them cannot be built.
    """
    given = [c if isinstance(c, AlgorithmConfig) else config_from_dict(c) for c in configs]
    if not given:
        raise InputError("[tuning] strategy_kwargs.configs is empty; give at least one")
    singles = expand_config_set(given)
    for config in singles:
        for part in getattr(config, "configs", (config,)):
            _check_model_parameters(part)
    return singles


def spanned_space(configs: Sequence[AlgorithmConfig], tuning: Tuning) -> Space:
    """The space whose options of each op are those that the configs give it, in their order.

    Recipes are those of the first config; what others have instead is there for strategies that try values.
    """
    candidates = [candidate_of(config, tuning) for config in configs]
    options = {op: tuple(dict.fromkeys(c.config_of(op) for c in candidates)) for op in tuning.space.ops}
    given = [dict(candidate.recipes) for candidate in candidates]
    several = {name: values for name in RECIPES if len(values := _values(name, given)) > 1}
    for name, values in several.items():
        if not RECIPES[name].tunable:
            tuning.note(f"config set: recipe {name} is {values[0]} in all candidates, as in the first config")
    return replace(
        tuning.space,
        options=options,
        presets={},
        recipes=given[0],
        alternatives={
            **tuning.space.alternatives,
            **{name: values for name, values in several.items() if RECIPES[name].tunable},
        },
    )


def _values(recipe: str, given: Sequence[Mapping[str, RecipeValue]]) -> tuple[RecipeValue, ...]:
    return tuple(dict.fromkeys(recipes.get(recipe, RECIPES[recipe].default) for recipes in given))


def candidate_of(config: AlgorithmConfig, tuning: Tuning) -> Candidate:
    """The candidate a single-valued config stands for: its op config wherever the target takes the approach.

    Raises:
        InputError: it names an op or op type that the model does not have.
    """
    ops = {op.name: op for op in tuning.summary.ops}
    chosen = dict.fromkeys(tuning.space.ops, FLOAT32)
    for part in reversed(getattr(config, "configs", (config,))):  # of a composed one the first holds
        chosen |= _chosen(part, tuning)
    chosen |= _local(config, chosen, tuning)
    configs = {op: without_inert_parts(c, ops[op].weight) for op, c in chosen.items()}
    return Candidate.of(configs, {**tuning.space.recipes, **_other_than_usual(config.recipes())})


def _chosen(config: AlgorithmConfig, tuning: Tuning) -> dict[str, OpConfig]:
    """Config of every op that a config quantizes."""
    op_config = config.op_config()
    chosen = dict.fromkeys(_quantized_ops(config, op_config, tuning), op_config)
    return chosen | _local(config, chosen, tuning)


def _local(config: AlgorithmConfig, chosen: Mapping[str, OpConfig], tuning: Tuning) -> dict[str, OpConfig]:
    """Config of every op that a local config is for: a type's of what is quantized, a name's in any case."""
    types, sources = tuning.space.types, {op.name: (op.name, *op.sources) for op in tuning.summary.ops}
    by_type: dict[str, OpConfig] = {}
    by_name: dict[str, OpConfig] = {}
    for key, local in config.local:
        of_type = [op for op in tuning.space.ops if types[op] == key]
        of_name = [op for op in tuning.space.ops if any(re.fullmatch(key, name) for name in sources[op])]
        if not of_type and not of_name:
            raise InputError(f"config set: local config: {unknown_name('op', key, sources)}")
        by_type |= {op: local.op_config() for op in of_type if op in chosen}
        by_name |= {op: local.op_config() for op in of_name}
    return by_type | by_name


def _other_than_usual(recipes: Mapping[str, RecipeValue]) -> dict[str, RecipeValue]:
    return {name: v for name, v in recipes.items() if v != RECIPES[name].default}


def _quantized_ops(config: AlgorithmConfig, op_config: OpConfig, tuning: Tuning) -> set[str]:
    space, ops = tuning.space, tuning.summary.ops
    wanted = {op for op in space.ops if any(o.approach == op_config.approach for o in space.options[op])}
    if isinstance(config, WeightOnlyConfig):
        _require_known("operator type", config.white_list or (), {op.op_type for op in ops})
        with_weight = {op.name for op in ops if op.weight and op.op_type in config.op_types}
        wanted = with_weight.intersection(space.ops) if op_config.quantized else set()
    types = getattr(config, "op_types_to_quantize", None)
    if types is not None:
        _require_known("operator type", types, {op.op_type for op in ops})
        wanted = {op for op in wanted if space.types[op] in types}
    excluded = set(getattr(config, "nodes_to_exclude", ()))
    _require_known("node", excluded, {s for op in ops for s in (op.name, *op.sources)})
    wanted -= {op.name for op in ops if excluded.intersection((op.name, *op.sources))}
    if not getattr(config, "quant_last_matmul", True):
        wanted.discard(next((op.name for op in reversed(ops) if op.op_type == "MatMul"), ""))
    return wanted


def _require_known(kind: str, names: Sequence[str] | set[str], known: set[str]) -> None:
    for name in names:
        if name not in known:
            raise InputError(f"config set: the model has {unknown_name(kind, name, known)}")


def _check_model_parameters(config: AlgorithmConfig) -> None:
    if getattr(config, "quant_format", "qdq") != "qdq":
        raise InputError(
            f'{type(config).__name__}: quant_format "{config.quant_format}" cannot be built yet; use "qdq"'  # type: ignore[attr-defined]
        )
