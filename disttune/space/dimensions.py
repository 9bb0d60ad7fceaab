"""The grid that samplers walk: named dimensions with numbered options, a candidate for each point.

Pure. A dimension has at least two options; what has one is in every candidate. Two kinds:
1. op by op: a dimension for each op, with the op's options;
2. op type by op type: a dimension for each type (apart for each approach that its ops have by default),
   with the union of its ops' options. The union is in the order of: activation scheme, method,
   granularity, then the same of the weight, each value where it first appears; the last varies
   fastest. An op that lacks an option takes its own default.
Ops that a recipe leaves in float by default stay there.

Source: INC 2.6, samplers over op types and ops.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from disttune.config.schemes import FLOAT32, OpConfig, Scheme
from disttune.space.candidate import Candidate
from disttune.space.space import Space

Point = tuple[int, ...]


@dataclass(frozen=True)
class Dimensions:
    """A grid of candidates; the last dimension varies fastest.

    Args:
        space: that the candidates are of.
        options: dimension to its options, at least two of them.
        ops: dimension to the ops that take its option.
    """

    space: Space
    options: Mapping[str, tuple[OpConfig, ...]]
    ops: Mapping[str, tuple[str, ...]]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.options)

    @cached_property
    def sizes(self) -> Point:
        """Number of options of each dimension."""
        return tuple(len(options) for options in self.options.values())

    @cached_property
    def size(self) -> int:
        """Number of points, exact."""
        return math.prod(self.sizes)

    def point(self, index: int) -> Point:
        """The point at a position, 0 <= index < size."""
        if not 0 <= index < self.size:
            raise IndexError(f"index {index} outside a grid of {self.size} points")
        coordinates = []
        for n in reversed(self.sizes):
            index, coordinate = divmod(index, n)
            coordinates.append(coordinate)
        return tuple(reversed(coordinates))

    def index(self, point: Sequence[int]) -> int:
        """The position of a point."""
        index = 0
        for n, coordinate in zip(self.sizes, point, strict=True):
            index = index * n + coordinate
        return index

    def candidate(self, point: Sequence[int]) -> Candidate:
        """What a point stands for."""
        configs = dict(self._fixed)
        for (name, options), coordinate in zip(self.options.items(), point, strict=True):
            for op in self.ops[name]:
                configs[op] = self._taken(op, options[coordinate])
        for op in self.space.float_sets[0]:
            configs[op] = FLOAT32
        return Candidate.of({op: configs[op] for op in self.space.ops}, self.space.recipes)

    def find(self, candidate: Candidate) -> Point | None:
        """The first point that stands for a candidate, or None."""
        point = []
        for name, options in self.options.items():
            fitting = (
                i
                for i, option in enumerate(options)
                if all(self._taken(op, option) == candidate.config_of(op) for op in self.ops[name])
            )
            if (first := next(fitting, None)) is None:
                return None
            point.append(first)
        return tuple(point) if self.candidate(point) == candidate else None

    def neighbours(self, point: Sequence[int]) -> Iterator[Point]:
        """Points that differ in one coordinate."""
        for i, n in enumerate(self.sizes):
            for coordinate in range(n):
                if coordinate != point[i]:
                    yield (*point[:i], coordinate, *point[i + 1 :])

    def _taken(self, op: str, option: OpConfig) -> OpConfig:
        own = self.space.options[op]
        return option if option in own else own[0]

    @cached_property
    def _fixed(self) -> dict[str, OpConfig]:
        return {op: options[0] for op, options in self.space.options.items()}


def op_dimensions(space: Space) -> Dimensions:
    """Case 1."""
    free = {
        op: options
        for op, options in space.options.items()
        if len(options) > 1 and op not in space.float_sets[0]
    }
    return Dimensions(space, free, {op: (op,) for op in free})


def op_type_dimensions(space: Space) -> Dimensions:
    """Case 2."""
    ops: dict[str, list[str]] = {}
    several = _types_with_several_approaches(space)
    for op, options in space.options.items():
        op_type = space.types[op]
        name = f"{op_type} ({options[0].approach})" if op_type in several else op_type
        if op not in space.float_sets[0]:
            ops.setdefault(name, []).append(op)
    unions = {name: _union([space.options[op] for op in group]) for name, group in ops.items()}
    free = {name: union for name, union in unions.items() if len(union) > 1}
    return Dimensions(space, free, {name: tuple(ops[name]) for name in free})


def _types_with_several_approaches(space: Space) -> set[str]:
    kinds = {(space.types[op], options[0].approach) for op, options in space.options.items()}
    types = [op_type for op_type, _ in kinds]
    return {t for t in types if types.count(t) > 1}


def _union(lists: Sequence[tuple[OpConfig, ...]]) -> tuple[OpConfig, ...]:
    merged = list(dict.fromkeys(option for options in lists for option in options))
    seen: list[dict[object, int]] = [{} for _ in _attributes(merged[0])]
    for option in merged:
        for places, value in zip(seen, _attributes(option), strict=True):
            places.setdefault(value, len(places))
    return tuple(sorted(merged, key=lambda o: [p[v] for p, v in zip(seen, _attributes(o), strict=True)]))


def _attributes(config: OpConfig) -> tuple[object, ...]:
    return (config.approach, *_parts(config.activation), *_parts(config.weight))


def _parts(scheme: Scheme | None) -> tuple[object, ...]:
    if scheme is None:
        return (None, None, None)
    return (
        (scheme.dtype, scheme.symmetric),
        (scheme.method, scheme.parameter),
        (scheme.granularity, scheme.group_size),
    )
