"""One choice for each group: the least noise for every cost (multiple-choice knapsack).

Pure. The path starts with the least noise of every group; each step takes the choice of one group that
saves most cost for the noise it adds (the lower convex hull of each group, merged by slope), down to the
least cost. Noise is taken to add up over groups; what it predicts is measured by others.

Source: Sinha and Zoltners 1979, "The multiple-choice knapsack problem" (its linear relaxation).
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise, product

MOST_LISTED = 4096  # assignments that are listed whole
MOST_PAIRED = 64  # groups of which two are changed at a time
Assignment = tuple[int, ...]  # for each group the position of its choice


@dataclass(frozen=True, slots=True)
class Choice:
    """One choice of a group.

    Args:
        cost: share of the float model's.
        noise: that it adds to the output, at least 0.
    """

    cost: float
    noise: float


Choices = Sequence[Sequence[Choice]]  # of each group, at least one


def pareto_path(choices: Choices) -> list[Assignment]:
    """Assignments of falling cost and growing predicted noise; ties go to the earlier group."""
    hulls = [_hull(group) for group in choices]
    current = [hull[0] for hull in hulls]
    steps = sorted(
        (_slope(choices[g][a], choices[g][b]), g, position, b)
        for g, hull in enumerate(hulls)
        for position, (a, b) in enumerate(pairwise(hull))
    )
    path = [tuple(current)]
    for _, group, _, chosen in steps:
        current[group] = chosen
        path.append(tuple(current))
    return path


def cost_of(choices: Choices, assignment: Assignment) -> float:
    return math.fsum(group[i].cost for group, i in zip(choices, assignment, strict=True))


def noise_of(choices: Choices, assignment: Assignment) -> float:
    """The noise that is predicted."""
    return math.fsum(group[i].noise for group, i in zip(choices, assignment, strict=True))


def neighbours(choices: Choices, start: Assignment) -> Iterator[Assignment]:
    """Other assignments: all of them where they are few, else with one or two groups changed.

    Of many groups two are changed among those with most cost alone.
    """
    if math.prod(map(len, choices)) <= MOST_LISTED:
        yield from (a for a in product(*(range(len(group)) for group in choices)) if a != start)
        return
    order = sorted(range(len(choices)), key=lambda g: -max(c.cost for c in choices[g]))
    for group in order:
        yield from _changed(choices, start, (group,))
    for pair in combinations(order[:MOST_PAIRED], 2):
        yield from _changed(choices, start, pair)


def _changed(choices: Choices, start: Assignment, groups: Sequence[int]) -> Iterator[Assignment]:
    """Assignments with another choice for each of these groups."""
    others = ([i for i in range(len(choices[g])) if i != start[g]] for g in groups)
    for chosen in product(*others):
        assignment = list(start)
        for group, i in zip(groups, chosen, strict=True):
            assignment[group] = i
        yield tuple(assignment)


def _hull(group: Sequence[Choice]) -> list[int]:
    """Positions on the lower convex hull, from the least noise (the cheapest of these) to the least cost."""
    order = sorted(range(len(group)), key=lambda i: (group[i].noise, group[i].cost, i))
    falling = [order[0]]
    for i in order[1:]:
        if group[i].cost < group[falling[-1]].cost:
            falling.append(i)
    hull: list[int] = []
    for i in falling:
        while len(hull) > 1 and _slope(group[hull[-2]], group[hull[-1]]) >= _slope(group[hull[-1]], group[i]):
            hull.pop()
        hull.append(i)
    return hull


def _slope(a: Choice, b: Choice) -> float:
    """Noise added for each unit of cost saved."""
    return (b.noise - a.noise) / (a.cost - b.cost)
