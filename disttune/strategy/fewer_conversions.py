"""Phase 3 of automatic mixed precision: fewer conversions between neighbours of different precision.

From the cheapest mix that meets the goal one group after another takes a precision with which fewer tensors
are converted on their way from op to op. Four changes are tried at a time, those that add least cost (or
save most) for each conversion that goes; of those that meet the goal the one with the fewest conversions is
kept. It ends when few enough are left, or when no change meets the goal.

Source: AIMET, automatic mixed precision, phase 3: there an integer program limits the precision changes, and
it exists for PyTorch alone. What we do differently: every step is a trial that was measured.
"""

from collections.abc import Mapping, Sequence

from disttune.config.schemes import OpConfig
from disttune.space.candidate import Candidate
from disttune.space.summary import ModelSummary
from disttune.strategy.knapsack import Assignment, cost_of
from disttune.strategy.precision_search import PrecisionSearch, Stages
from disttune.strategy.tuning import Tuning

AT_A_TIME = 4


class Conversions:
    """Counts the tensors between two ops of a model that one of them holds in another type than the other.

    Args:
        summary: of the model.
        ops: that count, e.g. those of a candidate.
    """

    def __init__(self, summary: ModelSummary, ops: Sequence[str]):
        known = set(ops)
        makers = {name: op.name for op in summary.ops if op.name in known for name in op.outputs}
        self._edges = [
            (makers[name], op.name)
            for op in summary.ops
            if op.name in known
            for name in dict.fromkeys(op.inputs)
            if name in makers
        ]

    def count(self, candidate: Candidate) -> int:
        """How many there are in the model of a candidate."""
        types: Mapping[str, str] = {op: _held(config) for op, config in candidate.configs().items()}
        return sum(types[maker] != types[reader] for maker, reader in self._edges)


def fewer_conversions(
    tuning: Tuning, search: PrecisionSearch, conversions: Conversions, share: float
) -> Stages:
    """The stages, after a search that has found a mix.

    Args:
        tuning: is told what was reached; the last mix that was kept is preferred.
        search: whose best is the start; it measures.
        conversions: of the model.
        share: of the conversions at the start that may be left.
    """
    current = search.best
    assert current is not None
    at_first = n = conversions.count(search.candidate(current))
    while n > share * at_first:
        changes = _changes(search, conversions, current)[:AT_A_TIME]
        yield from search.measure(f"fewer than {n} conversions", changes)
        kept = [a for a in changes if search.meets(a)]
        if not kept:
            tuning.note(f"conversions: {n} of {at_first} are left, no change of one group meets the goal")
            return
        current = min(kept, key=lambda a: (conversions.count(search.candidate(a)), _cost(search, a)))
        n = conversions.count(search.candidate(current))
        tuning.prefer(search.rows[current])
    tuning.note(f"conversions: {n} of {at_first} are left")


def _changes(search: PrecisionSearch, conversions: Conversions, current: Assignment) -> list[Assignment]:
    """Changes of one group that take conversions away, the least cost for each of them first."""
    n, cost = conversions.count(search.candidate(current)), _cost(search, current)
    ranked = []
    for group, choices in enumerate(search.choices):
        for i in range(len(choices)):
            other = (*current[:group], i, *current[group + 1 :])
            fewer = n - conversions.count(search.candidate(other))
            if fewer > 0 and search.quantizes(other):
                ranked.append(((_cost(search, other) - cost) / fewer, group, i, other))
    return [other for *_, other in sorted(ranked)]


def _cost(search: PrecisionSearch, assignment: Assignment) -> float:
    return cost_of(search.choices, assignment)


def _held(config: OpConfig) -> str:
    """What an op reads and writes its data in."""
    if config.approach == "static" and config.activation is not None:
        return config.activation.dtype
    return config.float_type
