"""The cheapest mix of precisions that meets the goal, found on real trials only.

1. one precision everywhere, as far as each group takes it; 2. points on the knapsack's path at distances of
1, 2, 4, 8 ... from its cheap end; 3. between the cheapest that meets the goal and the next cheaper that
misses it, three points at a time, until none is left; 4. repair: assignments cheaper than the best, half
of them the cheapest that should hold by what was measured so far, half those with the least predicted noise;
as long as that finds a better one.

Nothing takes the metric to be monotone along the path: what counts is what was measured.
"""

from collections.abc import Generator, Iterable, Sequence

from disttune.space.candidate import Candidate
from disttune.strategy.knapsack import Assignment, Choices, cost_of, neighbours, noise_of, pareto_path
from disttune.strategy.sensitivity import Group
from disttune.strategy.stage import Stage, StageResult
from disttune.strategy.trial import Trial
from disttune.strategy.tuning import Tuning

BETWEEN = 3  # points of a bisection stage
REPAIRS = 8  # trials of a repair stage
LEAST_GAIN = 1e-9  # of the float model's cost

Stages = Generator[Stage, StageResult, None]


class PrecisionSearch:
    """See the head of this file.

    Args:
        tuning: is told what was found.
        base: whose recipes hold.
        groups: with measured noise.
        n_repairs: most stages of repair.
    """

    def __init__(self, tuning: Tuning, base: Candidate, groups: Sequence[Group], n_repairs: int):
        self._tuning = tuning
        self._base = base
        self._groups = groups
        self._n_repairs = n_repairs
        self.choices: Choices = [[choice.value for choice in group] for group in groups]
        self._asked: set[Assignment] = set()
        self.rows: dict[Assignment, Trial] = {}

    def run(self, names: Sequence[str]) -> Stages:
        """The stages.

        Args:
            names: precisions that are tried everywhere first.
        """
        cheapest = tuple(0 for _ in self._groups)
        yield from self.measure("one precision everywhere", [*map(self._uniform, names), cheapest])
        if self.meets(cheapest):
            return
        path = pareto_path(self.choices)
        yield from self._along(path)
        if self.best is None:
            self._tuning.note("mixed precision: no mix on the path meets the goal")
            return
        for number in range(1, self._n_repairs + 1):
            before = self.best
            yield from self.measure(f"repair {number}", self._repairs())
            if self.best == before:
                return

    @property
    def best(self) -> Assignment | None:
        """The cheapest that was measured and meets the goal; the first on a tie."""
        meeting = [a for a in self.rows if self.meets(a)]
        return min(meeting, key=lambda a: cost_of(self.choices, a), default=None)

    def _along(self, path: Sequence[Assignment]) -> Stages:
        """Steps 2 and 3."""
        last = len(path) - 1
        distances = [0, *(2**n for n in range(last.bit_length())), last]
        points = sorted({max(0, last - distance) for distance in distances}, reverse=True)
        yield from self.measure("along the Pareto front", [path[i] for i in points])
        while between := self._between(path):
            yield from self.measure("where the goal is crossed", [path[i] for i in between])

    def _between(self, path: Sequence[Assignment]) -> list[int]:
        """Positions to measure, spread over the gap behind the cheapest point that meets the goal."""
        low = max((i for i, point in enumerate(path) if self.meets(point)), default=-1)
        high = next((i for i in range(low + 1, len(path)) if path[i] in self._asked), len(path))
        inside = [i for i in range(low + 1, high) if self.quantizes(path[i])]
        if len(inside) <= BETWEEN:
            return inside
        return [inside[len(inside) * (n + 1) // (BETWEEN + 1)] for n in range(BETWEEN)]

    def _repairs(self) -> list[Assignment]:
        """Step 4."""
        assert self.best is not None
        limit = cost_of(self.choices, self.best) - LEAST_GAIN
        new = {
            a: (cost_of(self.choices, a), noise_of(self.choices, a))
            for a in neighbours(self.choices, self.best)
            if a not in self._asked and self.quantizes(a)
        }
        cheaper = [a for a, (cost, _) in new.items() if cost < limit]
        met = [noise_of(self.choices, a) for a in self.rows if self.meets(a)]
        missed = [noise_of(self.choices, a) for a in self.rows if not self.meets(a)]
        bound = max([*met, min(missed, default=0.0)])
        hopeful = sorted((a for a in cheaper if new[a][1] <= bound), key=lambda a: new[a])
        quiet = sorted(cheaper, key=lambda a: new[a][::-1])
        chosen = dict.fromkeys([*hopeful[: REPAIRS // 2], *quiet[: REPAIRS // 2]])
        return list(dict.fromkeys([*chosen, *hopeful, *quiet]))[:REPAIRS]

    def measure(self, name: str, assignments: Iterable[Assignment]) -> Stages:
        """One stage with those that were not measured; a met goal ends nothing."""
        new = [a for a in dict.fromkeys(assignments) if a not in self._asked and self.quantizes(a)]
        if new:
            self._asked.update(new)
            result = yield Stage(name, [self.candidate(a) for a in new], goal_stops=False)
            self.rows |= dict(zip(new, result.trials, strict=False))

    def candidate(self, assignment: Assignment) -> Candidate:
        chosen = (group[i].configs for group, i in zip(self._groups, assignment, strict=True))
        return self._base.with_configs({op: c for configs in chosen for op, c in configs.items()})

    def _uniform(self, name: str) -> Assignment:
        """A precision wherever a group takes it, float elsewhere."""
        names = [[choice.name for choice in group] for group in self._groups]
        return tuple(own.index(name) if name in own else len(own) - 1 for own in names)

    def quantizes(self, assignment: Assignment) -> bool:
        """Whether anything would be quantized."""
        return any(group[i].name != "float" for group, i in zip(self._groups, assignment, strict=True))

    def meets(self, assignment: Assignment) -> bool:
        """Whether it was measured and meets the goal."""
        row = self.rows.get(assignment)
        return row is not None and row.meets_goal
