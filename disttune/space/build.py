"""The tuning space of a job from the model, the target, and what the user asks for. Pure."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from disttune.config.errors import InputError
from disttune.config.nearest import unknown_name
from disttune.config.quantization_section import QuantizationSection
from disttune.config.recipes import PREPARING, RECIPES, REDUCE_RANGE, RecipeValue, op_types_of
from disttune.config.schemes import METHODS, OpConfig
from disttune.config.weight_methods import WEIGHT_METHODS
from disttune.space.candidate import Candidate
from disttune.space.capability import APPROACHES, WEIGHT_ONLY, Capability, CapabilityRow
from disttune.space.float_recipes import FLOAT_RECIPES, resolve_float_recipes
from disttune.space.float_types import float_types_of, half_ops, user_options
from disttune.space.merge import UserOptions
from disttune.space.options import op_options
from disttune.space.precisions import model_precisions
from disttune.space.presets import whole_model_presets
from disttune.space.space import Space
from disttune.space.summary import ModelSummary, OpSummary

_MATRIX = 2  # dimensions


def build_space(
    summary: ModelSummary,
    capability: Capability,
    quantization: QuantizationSection,
    methods: Collection[str] = frozenset({*METHODS, *WEIGHT_METHODS}),
    placement: str | None = None,
    approaches: Collection[str] = frozenset(APPROACHES),
    reduce_range: bool = False,
) -> Space:
    """The tuning space of a job.

    Args:
        summary: the model.
        capability: what the target can compute.
        quantization: the job's section: approach, placement, op_types, op_names, recipes.
        methods: names of the threshold and weight methods that the engine can do.
        placement: "speed" or "all"; None: what the section says, else the target's.
        approaches: that the engine can build, for the presets.
        reduce_range: whether weights take one bit less in all candidates.
    Raises:
        InputError: no op can be quantized, or a key matches no op.
    """
    placement = placement or quantization.placement or capability.placement
    rows = capability.select(
        APPROACHES if quantization.approach == "auto" else (quantization.approach,), placement, methods
    )
    user = user_options(summary, capability, quantization)
    options, in_float = _options_by_op(summary, rows, user)
    _check_op_types(quantization, summary)
    recipes = resolve_float_recipes(summary, options, quantization.recipes)
    held = half_ops(summary, capability, quantization)
    layers = {op.name: user.layers(op) for op in summary.ops if op.name in held}
    in_float |= {op: key for op in layers if (key := user.float_key(layers[op]))}
    in_float |= {op: f"recipes.{recipe}" for op, recipe in recipes.fixed.items()}
    options = {op: o for op, o in options.items() if op not in recipes.fixed}
    limits = f'target "{capability.target}" with approach "{quantization.approach}", placement "{placement}"'
    if not options:
        raise InputError(_no_quantizable_op(summary, capability, rows, limits, in_float))
    space = Space(
        options,
        {op.name: op.op_type for op in summary.ops if op.name in options or op.name in in_float},
        recipes.sets,
        recipes.open,
        recipes.off,
        _other_recipes(capability.recipes, quantization.recipes)
        | ({REDUCE_RANGE: True} if reduce_range else {}),
        _listed(quantization.recipes),
        in_float,
        half_ops=held,
        warnings=(
            *user.warnings(f"{limits} and this engine"),
            *(_float_weights(summary, options, in_float) if quantization.approach == WEIGHT_ONLY else ()),
            *(
                f"[quantization] recipes.{name} has no effect without {RECIPES[name].needs} = true"
                for name in _inert(quantization.recipes)
            ),
        ),
    )
    asked = {op.name: user.fallbacks(op) for op in summary.ops if op.name in options}
    float_types, fallbacks = float_types_of(asked, capability)
    space = replace(space, float_types=float_types, fallbacks=fallbacks)
    alone = {WEIGHT_ONLY} if "int8" in capability.weights_alone else set()
    buildable = frozenset(approaches) - ({WEIGHT_ONLY} - alone)
    if quantization.approach == WEIGHT_ONLY:
        buildable |= {WEIGHT_ONLY}
    precisions = model_precisions(
        summary.ops, space.options, capability, user.allows, methods, buildable, placement
    )
    space = replace(space, precisions=precisions)
    if quantization.approach == WEIGHT_ONLY:
        return space
    dynamic = capability.select(("dynamic",), placement, methods)
    taken = frozenset(methods) & capability.methods("static")
    again = user_options(summary, capability, quantization)  # keeps its own account of what was used
    return replace(space, presets=_presets(space, summary, again, dynamic, taken, buildable))


def _float_weights(
    summary: ModelSummary, options: Collection[str], in_float: Collection[str]
) -> tuple[str, ...]:
    """A sentence on the weights that nobody has asked to leave in float and that have no form here."""
    sizes = {op.name: op.weight.size_bytes for op in summary.ops if op.weight}
    left = [op for op in summary.ops if op.weight and op.name not in {*options, *in_float}]
    if not left:
        return ()
    named = ", ".join(f"{op.name} ({op.op_type})" for op in left[:3])
    more = f" and {len(left) - 3} more" if len(left) > 3 else ""
    share = sum(sizes[op.name] for op in left) / sum(sizes.values())
    return (
        f"weights of {named}{more} stay in float, {share:.0%} of all: these ops have no weight-only form, or "
        "one on request alone (quantization.op_types)",
    )


def _presets(
    space: Space,
    summary: ModelSummary,
    user: UserOptions,
    dynamic: Sequence[CapabilityRow],
    methods: Collection[str],
    approaches: Collection[str],
) -> dict[str, Candidate]:
    ops = {op.name: op for op in summary.ops}
    options, _ = _options_by_op(summary, dynamic, user)
    return whole_model_presets(
        space.default_candidate(),
        space.types,
        {name: op.weight for name, op in ops.items()},
        {op: o[0] for op, o in options.items() if user.allows(ops[op], "approach", "dynamic")},
        lambda op, part, value: user.allows(ops[op], part, value),
        methods,
        approaches,
    )


def _options_by_op(
    summary: ModelSummary, rows: Sequence[CapabilityRow], user: UserOptions
) -> tuple[dict[str, tuple[OpConfig, ...]], dict[str, str]]:
    """Options of the ops that have some, and the ops that a section leaves in float, with its key."""
    options: dict[str, tuple[OpConfig, ...]] = {}
    in_float: dict[str, str] = {}
    known: dict[tuple[object, ...], tuple[OpConfig, ...] | str] = {}
    for op in summary.ops:
        layers = user.layers(op)
        n_channels = min(op.weight.n_channels, 2) if op.weight else 0
        kind = (op.op_type, op.has_float_data, n_channels, _is_layer(op), *(layer.key for layer in layers))
        if kind not in known:
            fitting = _rows_of(op, rows)
            in_float_by = user.float_key(layers)
            if in_float_by:
                known[kind] = in_float_by if fitting else ()
            else:
                known[kind] = op_options(user.narrow(fitting, layers, op.op_type), op.weight)
        outcome = known[kind]
        if isinstance(outcome, str):
            in_float[op.name] = outcome
        elif outcome:
            options[op.name] = outcome
    return options, in_float


def _rows_of(op: OpSummary, rows: Iterable[CapabilityRow]) -> list[CapabilityRow]:
    """Rows that an op can take; without a weight's options where it has no constant weight."""
    fitting = [row for row in rows if op.op_type in row.op_types and op.has_float_data]
    if op.weight:
        return fitting if _is_layer(op) else [r for row in fitting if (r := _without_algorithms(row))]
    return [replace(row, weight=None) for row in fitting if not row.needs_weight]


def _is_layer(op: OpSummary) -> bool:
    """Whether algorithms can find the codes of its weight: of a MatMul or Gemm it has to be one matrix."""
    return op.op_type not in ("MatMul", "Gemm") or op.weight is None or len(op.weight.shape) == _MATRIX


def _without_algorithms(row: CapabilityRow) -> CapabilityRow | None:
    if row.weight is None:
        return row
    methods = tuple(m for m in row.weight.method if m.partition(":")[0] not in WEIGHT_METHODS)
    return replace(row, weight=replace(row.weight, method=methods)) if methods else None


def _other_recipes(
    target: Mapping[str, RecipeValue], given: Mapping[str, tuple[RecipeValue, ...]]
) -> dict[str, RecipeValue]:
    """Recipes that are no choice of the space: the first that the job gives, else the target's."""
    elsewhere = {*FLOAT_RECIPES, *PREPARING, *_inert(given)}
    fixed = {**target, **{name: values[0] for name, values in given.items() if name not in elsewhere}}
    return {name: value for name, value in fixed.items() if value != RECIPES[name].default}


def _listed(given: Mapping[str, tuple[RecipeValue, ...]]) -> dict[str, tuple[RecipeValue, ...]]:
    return {
        name: tuple(dict.fromkeys(values))
        for name, values in given.items()
        if name not in FLOAT_RECIPES and len(set(values)) > 1 and name not in _inert(given)
    }


def _inert(given: Mapping[str, tuple[RecipeValue, ...]]) -> list[str]:
    """Recipes that mean nothing because the one that they go with is off."""
    return [name for name in given if (needed := RECIPES[name].needs) and True not in given.get(needed, ())]


def _check_op_types(quantization: QuantizationSection, summary: ModelSummary) -> None:
    """Refuse op types in a recipe that the model does not have."""
    present = sorted({op.op_type for op in summary.ops})
    for recipe, values in quantization.recipes.items():
        named = op_types_of(values[0]) if RECIPES[recipe].names_op_types else ()
        for op_type in named:
            if op_type not in present:
                text = unknown_name("op type", op_type, present)
                raise InputError(f"[quantization] recipes.{recipe}: {text}")


def _no_quantizable_op(
    summary: ModelSummary,
    capability: Capability,
    rows: Sequence[CapabilityRow],
    limits: str,
    in_float: Mapping[str, str],
) -> str:
    if in_float:
        keys = ", ".join(dict.fromkeys(in_float.values()))
        return f"no quantizable op is left: [quantization] {keys} leave all {len(in_float)} of them in float"
    present = sorted({op.op_type for op in summary.ops})
    able = {op_type for row in rows for op_type in row.op_types}
    text = f"no quantizable op: {limits} quantizes {', '.join(sorted(able)) or 'nothing'}; "
    text += f"the model has {', '.join(present)}."
    if able.intersection(present):
        text += " Those in both have no constant weight or no float data."
    searched = {t for row in capability.rows if row.searched for t in row.op_types}
    others = searched.difference(able).intersection(present)
    if others:
        text += f' With another approach or placement = "all": {", ".join(sorted(others))}.'
    return text
