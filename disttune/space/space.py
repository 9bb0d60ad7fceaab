"""The tuning space of a job: every candidate, counted and indexed without listing any.

Pure. A candidate is a choice of one set of ops that open recipes leave in float, and of one option for
each other op. Every op of the space has quantized options only, so no two indices give the same
candidate. The last op varies fastest, the float sets slowest.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from disttune.config.errors import InputError
from disttune.config.nearest import unknown_name
from disttune.config.quantization_section import QuantizationSection
from disttune.config.recipes import PREPARING, RECIPES, REDUCE_RANGE, RecipeValue, op_types_of
from disttune.config.schemes import FLOAT32, METHODS, OpConfig, Scheme
from disttune.config.weight_methods import WEIGHT_METHODS
from disttune.space.candidate import Candidate
from disttune.space.capability import APPROACHES, WEIGHT_ONLY, Capability, CapabilityRow
from disttune.space.float_recipes import FLOAT_RECIPES, resolve_float_recipes
from disttune.space.float_types import float_types_of, half_ops, user_options
from disttune.space.merge import UserOptions
from disttune.space.options import op_options
from disttune.space.precisions import Precision, model_precisions
from disttune.space.presets import whole_model_presets
from disttune.space.summary import ModelSummary, OpSummary
from disttune.space.tree import Choice, Product, Sum, count_text

_MATRIX = 2  # dimensions


@dataclass(frozen=True, slots=True)
class SpaceRow:
    """Ops of one type that have the same options.

    Args:
        op_type: ONNX operator type.
        n_ops: how many.
        n_options: of each of them.
        options: what they are, in words.
    """

    op_type: str
    n_ops: int
    n_options: int
    options: str


@dataclass(frozen=True)
class Space:
    """Every candidate of a job; indexable, iterable, never listed. Made by `build_space`.

    Args:
        options: op name to its quantized options, the default first; in graph order.
        types: op name to op type, for these ops and those of `in_float`, in graph order.
        float_sets: sets of ops that open recipes leave in float, the default first.
        float_recipes: open recipes that leave ops in float, with their ops.
        recipes_off: those of them that are off by default.
        recipes: values of other recipes that the job fixes, where they differ from the default; of a list
            the first.
        alternatives: all values of other recipes that the job lists, for strategies that try them.
        in_float: ops that the job leaves in float in every candidate, with what says so.
        float_types: that ops can go back to, the one to try first at the front.
        fallbacks: op name to those of them that it can go back to, where that is not all.
        half_ops: ops that the job holds to a float type of 16 bits in every candidate, to that type.
        presets: candidates worth an early trial, by name; they may lie outside the space.
        precisions: what else ops can be computed in, by name; their configs may lie outside the space.
        warnings: sentences for the user.
    """

    options: Mapping[str, tuple[OpConfig, ...]]
    types: Mapping[str, str]
    float_sets: tuple[frozenset[str], ...] = (frozenset(),)
    float_recipes: Mapping[str, frozenset[str]] = field(default_factory=dict)
    recipes_off: frozenset[str] = frozenset()
    recipes: Mapping[str, RecipeValue] = field(default_factory=dict)
    alternatives: Mapping[str, tuple[RecipeValue, ...]] = field(default_factory=dict)
    in_float: Mapping[str, str] = field(default_factory=dict)
    float_types: tuple[str, ...] = ("float32",)
    fallbacks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    half_ops: Mapping[str, str] = field(default_factory=dict)
    presets: Mapping[str, Candidate] = field(default_factory=dict)
    precisions: Mapping[str, Precision] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @cached_property
    def ops(self) -> tuple[str, ...]:
        """Names of the ops that can be quantized, in graph order."""
        return tuple(self.options)

    @cached_property
    def op_types(self) -> tuple[str, ...]:
        """Their types, in order of first appearance."""
        return tuple(dict.fromkeys(self.types[op] for op in self.options))

    @cached_property
    def size(self) -> int:
        """Number of candidates, exact; may exceed what `len` can say."""
        return self._tree.size

    @property
    def size_text(self) -> str:
        """The size for people, e.g. "1,152" or "about 4.2 x 10^30"."""
        return count_text(self.size)

    def __getitem__(self, index: int) -> Candidate:
        """The candidate with this index; IndexError outside 0 <= index < size."""
        if not 0 <= index < self.size:
            raise IndexError(f"index outside a space of {self.size_text} candidates")
        chosen = self._tree.unrank(index)
        return Candidate.of({op: chosen.get(op, FLOAT32) for op in self.options}, self.recipes)

    def __iter__(self) -> Iterator[Candidate]:
        """Every candidate in order, made when it is asked for."""
        index = 0
        while index < self.size:
            yield self[index]
            index += 1

    def index(self, candidate: Candidate) -> int:
        """The index of a candidate; ValueError when the space does not hold it."""
        if candidate.ops != self.ops or dict(candidate.recipes) != self.recipes:
            raise ValueError("the candidate has other ops or recipes than the space")
        return self._tree.rank({op: config for op, config in candidate.configs().items() if config.quantized})

    def __contains__(self, candidate: Candidate) -> bool:
        try:
            self.index(candidate)
        except ValueError:
            return False
        return True

    def default_candidate(self) -> Candidate:
        """Every op at its first option, recipes at their default or at what the job fixes."""
        return self[0]

    def allows(self, op: str, config: OpConfig) -> bool:
        """Whether an op may have a config in some trial: an option, a float type, what a preset or a
        precision gives it, or one of these with a weight algorithm."""
        known = [*self.options[op], *(preset.config_of(op) for preset in self.presets.values())]
        known += [p.configs[op] for p in self.precisions.values() if op in p.configs]
        if not config.quantized:
            return self.falls_back_to(op, config.float_type) or config in known
        return _without_weight_method(config) in map(_without_weight_method, known) or config in known

    def falls_back_to(self, op: str, float_type: str) -> bool:
        """Whether a strategy may put an op back into a float type."""
        return float_type in self.fallbacks.get(op, self.float_types)

    def op_wise(self) -> "Space":
        """The product over the ops alone: recipes stay as in the default candidate."""
        return replace(self, float_sets=self.float_sets[:1], float_recipes={})

    def describe(self) -> tuple[SpaceRow, ...]:
        """A row for each op type and list of options, in order of first appearance."""
        kinds = ((self.types[op], self.options.get(op, (FLOAT32,)), self._held(op)) for op in self.types)
        return tuple(
            SpaceRow(op_type, n, len(options), held or _in_words(options))
            for (op_type, options, held), n in Counter(kinds).items()
        )

    def _held(self, op: str) -> str:
        """What an op is held to, in words; "" when it can be quantized."""
        key = self.in_float.get(op)
        return f"{self.half_ops.get(op, 'float32')} by {key}" if key else ""

    @cached_property
    def _tree(self) -> Sum[OpConfig]:
        choices = {op: Choice(op, options) for op, options in self.options.items()}
        parts = (tuple(c for op, c in choices.items() if op not in in_float) for in_float in self.float_sets)
        return Sum(tuple(Product(p) for p in parts))


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


def _without_weight_method(config: OpConfig) -> OpConfig:
    if config.weight is None:
        return config
    return replace(config, weight=replace(config.weight, method="minmax", parameter=None, options=()))


def _in_words(options: Sequence[OpConfig]) -> str:
    """Options grouped by approach, dtypes and symmetry, with the values that vary in brackets."""
    groups: dict[tuple[object, ...], list[OpConfig]] = {}
    for config in options:
        kinds = [(s.dtype, s.symmetric) if s else None for s in (config.activation, config.weight)]
        groups.setdefault((config.approach, *kinds), []).append(config)
    texts = []
    for configs in groups.values():
        activation = _schemes_in_words("activation", [c.activation for c in configs if c.activation])
        weight = _schemes_in_words("weight", [c.weight for c in configs if c.weight])
        texts.append(f"{configs[0].approach}: {', '.join(filter(None, (activation, weight)))}")
    return "; ".join(texts)


def _schemes_in_words(tensor: str, schemes: Sequence[Scheme]) -> str:
    if not schemes:
        return ""
    first = schemes[0]
    granularities = dict.fromkeys(_granularity(s) for s in schemes)
    methods = dict.fromkeys(
        s.method if s.parameter is None else f"{s.method} {s.parameter:g}" for s in schemes
    )
    symmetry = "symmetric" if first.symmetric else "asymmetric"
    return f"{tensor} {first.dtype} {symmetry} {_alternatives(granularities)} {_alternatives(methods)}"


def _granularity(scheme: Scheme) -> str:
    return f"group of {scheme.group_size}" if scheme.group_size else scheme.granularity.replace("_", " ")


def _alternatives(values: Mapping[str, None]) -> str:
    return "".join(values) if len(values) == 1 else f"[{', '.join(values)}]"
