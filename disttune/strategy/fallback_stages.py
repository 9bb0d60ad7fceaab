"""Fallback: groups of ops back in float, each alone, then together in order of what that gained.

A candidate that would quantize nothing is never proposed.
"""

import math
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from disttune.config.schemes import FLOAT32, OpConfig
from disttune.space.candidate import Candidate
from disttune.space.space import Space
from disttune.strategy.so_far import SoFar
from disttune.strategy.stage import Probe, Stage, StageResult
from disttune.strategy.tuning import Tuning

Group = tuple[str, ...]
Stages = Generator[Stage, StageResult, None]
T = TypeVar("T")


def back_in_float(space: Space, base: Candidate, ops: Iterable[str], float_type: str) -> Candidate:
    """The candidate with those of the ops that it quantizes in a float type.

    Of several ops those that cannot go back to this type go to float32.
    """
    wanted = OpConfig("float", float_type=float_type)
    quantized = [op for op in ops if base.config_of(op).quantized]
    return base.with_configs(
        {op: wanted if space.falls_back_to(op, float_type) else FLOAT32 for op in quantized}
    )


def alone_then_together(
    so_far: SoFar,
    base: Candidate,
    groups: Sequence[Group],
    float_type: str,
    what: str,
) -> Stages:
    """One stage with each group alone, one with the first two by impact, the first three, and so on.

    Args:
        so_far: takes the rows.
        base: to fall back from.
        groups: in the order of trial, which also decides ties of impact.
        float_type: to fall back to.
        what: of which the groups are, in the names of the stages.
    """
    groups = _fitting(so_far.space, groups, float_type)
    groups = [g for g in groups if 0 < _n_quantized(base, g) < len(base.quantized_ops)]
    if not groups:
        return
    singles = [back_in_float(so_far.space, base, group, float_type) for group in groups]
    result = yield from so_far.run(Stage(f"{what} in {float_type} one by one", singles))
    order = [groups[position] for position in result.best_first()]
    yield from together(so_far, base, order, float_type, what, 2)


def together(
    so_far: SoFar,
    base: Candidate,
    order: Sequence[Group],
    float_type: str,
    what: str,
    first: int = 1,
) -> Stages:
    """A lazy stage with the first groups in float, one more each time, as long as something is quantized.

    Args:
        so_far: takes the rows.
        base: to fall back from.
        order: of the groups.
        float_type: to fall back to.
        what: of which the groups are, in the name of the stage.
        first: how many groups at first.
    """
    order = _fitting(so_far.space, order, float_type)
    candidates = _accumulated(so_far.space, base, order, float_type, first)
    first_candidate = next(candidates, None)
    if first_candidate is None:
        return

    def all_of_them() -> Iterator[Candidate]:
        yield first_candidate
        yield from candidates

    yield from so_far.run(Stage(f"{what} in {float_type} together", all_of_them()))


def _fitting(space: Space, groups: Sequence[Group], float_type: str) -> list[Group]:
    """Those with an op that can go back to this type."""
    return [group for group in groups if any(space.falls_back_to(op, float_type) for op in group)]


def _accumulated(
    space: Space, base: Candidate, order: Sequence[Group], float_type: str, first: int
) -> Iterator[Candidate]:
    for n in range(first, len(order) + 1):
        candidate = back_in_float(space, base, (op for group in order[:n] for op in group), float_type)
        if not candidate.quantized_ops:
            return
        yield candidate


def number(value: Any) -> float | None:
    """A probe's value when it is a finite number."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else None


def ranked_by_probe(
    tuning: Tuning,
    so_far: SoFar,
    name: str,
    items: Sequence[T],
    probes: Sequence[Probe],
    least: bool = False,
    score: Callable[[Any], float | None] = number,
) -> Generator[Stage, StageResult, list[T]]:
    """Items by the number that the probe of each gives; ties, and then failed probes, in the order given.

    Args:
        tuning: is told how many probes failed.
        so_far: runs the stage.
        name: of the stage.
        items: to be ranked.
        probes: one for each.
        least: whether the least comes first, instead of the greatest.
        score: the number that a probe's value stands for; None for what is no value.
    """
    result = yield from so_far.run(Stage(name, probes))
    values = [score(value) for value in result.probes]
    known = [i for i, value in enumerate(values) if value is not None]
    failed = [i for i in range(len(items)) if i not in set(known)]
    if failed:
        tuning.note(f"{name}: {len(failed)} of {len(items)} probes failed; their ops come last")
    sign = 1.0 if least else -1.0
    return [items[i] for i in sorted(known, key=lambda i: sign * (values[i] or 0.0)) + failed]


def ops_by_error(
    tuning: Tuning, so_far: SoFar, base: Candidate, ops: Sequence[str], isolated: bool = False
) -> Generator[Stage, StageResult, list[str]]:
    """Ops by the error of their output, greatest first.

    Args:
        tuning: is told how many probes failed.
        so_far: runs the stage.
        base: the errors are those of its model.
        ops: to be ranked.
        isolated: whether each error is that of the model with this op alone quantized, so that it holds
            nothing of what ops before it have done.
    """
    everything = base.quantized_ops
    models = {op: base.in_float(*(o for o in everything if o != op)) if isolated else base for op in ops}
    probes = [Probe("op_mse", {"op": op}, models[op]) for op in ops]
    return (yield from ranked_by_probe(tuning, so_far, "error of each op's output", ops, probes))


def _n_quantized(base: Candidate, ops: Iterable[str]) -> int:
    return sum(base.config_of(op).quantized for op in ops)
