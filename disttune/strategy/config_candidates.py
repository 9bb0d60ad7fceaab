"""Config sets as candidates: what each config stands for, and the space that a set spans."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from disttune.config.algorithms import AlgorithmConfig, config_from_dict, expand_config_set
from disttune.config.errors import InputError
from disttune.config.nearest import unknown_name
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
        _check_model_parameters(config)
    return singles


def spanned_space(configs: Sequence[AlgorithmConfig], tuning: Tuning) -> Space:
    """The space whose options of each op are those that the configs give it, in their order."""
    candidates = [candidate_of(config, tuning) for config in configs]
    options = {op: tuple(dict.fromkeys(c.config_of(op) for c in candidates)) for op in tuning.space.ops}
    return replace(tuning.space, options=options, presets={})


def candidate_of(config: AlgorithmConfig, tuning: Tuning) -> Candidate:
    """The candidate a single-valued config stands for: its op config wherever the target takes the approach.

    Raises:
        InputError: it names an op or op type that the model does not have.
    """
    op_config = config.op_config()
    wanted = _quantized_ops(config, op_config, tuning)
    weights = {op.name: op.weight for op in tuning.summary.ops}
    return Candidate.of(
        {
            op: without_inert_parts(op_config, weights[op]) if op in wanted else FLOAT32
            for op in tuning.space.ops
        },
        tuning.space.recipes,
    )


def _quantized_ops(config: AlgorithmConfig, op_config: OpConfig, tuning: Tuning) -> set[str]:
    space, ops = tuning.space, tuning.summary.ops
    wanted = {op for op in space.ops if any(o.approach == op_config.approach for o in space.options[op])}
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
