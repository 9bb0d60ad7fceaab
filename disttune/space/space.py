"""The tuning space of a job: every candidate, counted and indexed without listing any.

Pure. A candidate is a choice of one set of ops that open recipes leave in float, and of one option for
each other op. Every op of the space has quantized options only, so no two indices give the same
candidate. The last op varies fastest, the float sets slowest.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from disttune.config.recipes import RecipeValue
from disttune.config.schemes import FLOAT32, OpConfig
from disttune.space.candidate import Candidate
from disttune.space.precisions import Precision
from disttune.space.tree import Choice, Product, Sum, count_text
from disttune.space.words import in_words


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
            SpaceRow(op_type, n, len(options), held or in_words(options))
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


def _without_weight_method(config: OpConfig) -> OpConfig:
    if config.weight is None:
        return config
    return replace(config, weight=replace(config.weight, method="minmax", parameter=None, options=()))
