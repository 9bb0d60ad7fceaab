"""Trees of named choices that are counted and indexed by arithmetic, never listed.

Pure. The last part of a `Product` varies fastest; the alternatives of a `Sum` come one after another.
Sizes are exact Python integers, computed once; 10^30 elements cost no more than ten.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Generic, Protocol, TypeVar

T = TypeVar("T")


class Node(Protocol[T]):
    """A finite, ordered set of assignments `{name: option}`."""

    @property
    def size(self) -> int:
        """How many assignments there are."""

    @property
    def names(self) -> frozenset[str]:
        """Every name that may occur in an assignment."""

    def unrank(self, index: int) -> dict[str, T]:
        """The assignment at a position; IndexError outside 0 <= index < size."""

    def rank(self, assignment: Mapping[str, T]) -> int:
        """The position of an assignment; ValueError when it is not in the set."""


@dataclass(frozen=True)
class Choice(Generic[T]):
    """One of several options under a name.

    Args:
        name: key of the option in an assignment.
        options: distinct values, in order.
    """

    name: str
    options: tuple[T, ...]

    @property
    def size(self) -> int:
        return len(self.options)

    @property
    def names(self) -> frozenset[str]:
        return frozenset((self.name,))

    def unrank(self, index: int) -> dict[str, T]:
        _check(index, len(self.options))
        return {self.name: self.options[index]}

    def rank(self, assignment: Mapping[str, T]) -> int:
        if self.name not in assignment:
            raise ValueError(f"nothing is chosen for {self.name}")
        return self.options.index(assignment[self.name])


@dataclass(frozen=True)
class Product(Generic[T]):
    """Every combination of the parts' assignments, the last part fastest.

    Args:
        parts: nodes without a name in common; none at all make one empty assignment.
    """

    parts: tuple[Node[T], ...]

    def __post_init__(self) -> None:
        assert len(self.names) == sum(len(p.names) for p in self.parts), "two parts share a name"

    @cached_property
    def size(self) -> int:
        return math.prod(p.size for p in self.parts)

    @cached_property
    def names(self) -> frozenset[str]:
        return frozenset().union(*(p.names for p in self.parts))

    def unrank(self, index: int) -> dict[str, T]:
        _check(index, self.size)
        chosen: list[dict[str, T]] = []
        for part in reversed(self.parts):
            index, position = divmod(index, part.size)
            chosen.append(part.unrank(position))
        return {name: option for picked in reversed(chosen) for name, option in picked.items()}

    def rank(self, assignment: Mapping[str, T]) -> int:
        index = 0
        for part in self.parts:
            index = index * part.size + part.rank(assignment)
        return index


@dataclass(frozen=True)
class Sum(Generic[T]):
    """The alternatives' assignments, one alternative after another.

    Args:
        alternatives: nodes whose assignments differ from one another in names or options.
    """

    alternatives: tuple[Node[T], ...]

    @cached_property
    def size(self) -> int:
        return sum(a.size for a in self.alternatives)

    @cached_property
    def names(self) -> frozenset[str]:
        return frozenset().union(*(a.names for a in self.alternatives))

    def unrank(self, index: int) -> dict[str, T]:
        _check(index, self.size)
        for start, alternative in self._starts():
            if index < start + alternative.size:
                return alternative.unrank(index - start)
        raise AssertionError("sizes of the alternatives do not add up")

    def rank(self, assignment: Mapping[str, T]) -> int:
        wanted = {name: assignment[name] for name in self.names.intersection(assignment)}
        for start, alternative in self._starts():
            if wanted.keys() <= alternative.names:
                try:
                    index = alternative.rank(wanted)
                except ValueError:
                    continue
                if alternative.unrank(index) == wanted:
                    return start + index
        raise ValueError("no alternative has this assignment")

    def _starts(self) -> Iterator[tuple[int, Node[T]]]:
        start = 0
        for alternative in self.alternatives:
            yield start, alternative
            start += alternative.size


def count_text(count: int) -> str:
    """A count for people: exact to 15 digits, then "about 4.2 x 10^30"; of any size, in no time."""
    if count < 10**15:
        return f"{count:,}"
    exponent = math.floor(math.log10(count))
    return f"about {10 ** (math.log10(count) - exponent):.1f} x 10^{exponent}"


def _check(index: int, size: int) -> None:
    if not 0 <= index < size:
        raise IndexError(f"index outside the {count_text(size)} assignments")
