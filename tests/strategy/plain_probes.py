"""Plain renderings of mse, mse_v2 and hawq_v2, and what simulated probes answer."""

import random

from disttune.space.candidate import Candidate
from disttune.strategy.stage import Probe
from tests.strategy.drawn import Drawn
from tests.strategy.plain import (
    Plain,
    all_dynamic,
    best_row,
    default_configs,
    fall_back,
    in_float,
    islice_new,
    op_type_product,
    recipes_other,
)


def answer(drawn: Drawn, probe: Probe) -> object:
    """What a simulated probe gives; some fail, some are equal."""
    op = probe.arguments["op"]
    digest = probe.candidate.digest if probe.kind == "fallback_mse" else ""
    rng = random.Random(f"{drawn.seed} {probe.kind} {op} {digest}")
    if rng.random() < 0.1:
        raise ValueError("the probe failed")
    value = float(rng.randrange(4))
    return {"trace": value - 1, "squared_error": 0.5} if probe.kind == "hessian_trace" else value


def ranking(drawn, kind, ops, candidates=None, least=False):
    values = {}
    for op in ops:
        try:
            given = answer(drawn, Probe(kind, {"op": op}, candidates[op] if candidates else None))
            values[op] = given["trace"] * given["squared_error"] if isinstance(given, dict) else given
        except ValueError:
            values[op] = None
    known = [op for op in ops if values[op] is not None]
    known.sort(key=lambda op: values[op] if least else -values[op])
    return known + [op for op in ops if values[op] is None]


def beginning(plain: Plain, limit: int, dynamic: bool):
    """Default, all recipes, op types, and dynamic where asked for; returns the rows and how to add one."""
    drawn, space, rows = plain.drawn, plain.drawn.space, []

    def trial(candidate, goal_stops=True):
        rows.append(plain.trial(candidate, goal_stops))
        return rows[-1]

    def tried(candidate):
        return any(r.candidate == candidate for r in rows)

    default = Candidate.of(default_configs(drawn), space.recipes)
    trial(default)
    base = best_row(rows, drawn.goal, None)
    changed = recipes_other(drawn, base.candidate if base else default, list(space.float_recipes))
    if space.float_recipes and changed.quantized_ops and not tried(changed):
        trial(changed)
    for candidate in islice_new(op_type_product(drawn, None), tried, limit):
        trial(candidate)
    if dynamic and any({"static", "dynamic"} <= {c.approach for c in o} for o in space.options.values()):
        base = best_row(rows, drawn.goal, None)
        switched = all_dynamic(drawn, base.candidate if base else default)
        if not tried(switched):
            trial(switched)
        for candidate in islice_new(op_type_product(drawn, "dynamic"), tried, limit):
            trial(candidate)
    base = best_row(rows, drawn.goal, None)
    return trial, rows, base.candidate if base else default


def mse(plain: Plain) -> None:
    trial, rows, base = beginning(plain, min(5, len(plain.drawn.space.ops)), dynamic=True)
    order = ranking(plain.drawn, "op_mse", base.quantized_ops[::-1])
    for n in range(1, len(order)):
        trial(in_float(base, order[:n]))
    if any(row.meets for row in rows):
        return
    ops = base.quantized_ops[::-1]
    if len(ops) > 1:
        affordable = max(1, plain.left // 2)
        fall_back(trial, base, [[op] for op in (order[:affordable] if len(ops) > affordable else ops)])


def mse_v2(plain: Plain, strict: bool = True):
    """Returns the row that is preferred, or None."""
    trial, rows, base = beginning(plain, 2, dynamic=False)
    if any(row.meets for row in rows):
        return
    configs = base.configs()
    fallen, current, met = [], base, False
    while not met and len(current.quantized_ops) > 1:
        without = {op: in_float(current, [op]) for op in current.quantized_ops[::-1]}
        worst = ranking(plain.drawn, "fallback_mse", list(without), without, least=True)[0]
        fallen.append(worst)
        current = without[worst]
        row = trial(current, goal_stops=False)
        met = row.meets
        if met:
            plain.preferred = row
    left, n_fallen = list(fallen), len(fallen)
    order = None
    while met and left and n_fallen > 1:
        back = {
            op: Candidate.of({**current.configs(), op: configs[op]}, dict(current.recipes)) for op in left
        }
        order = order or ranking(plain.drawn, "fallback_mse", left, back, least=True)
        op = order[0]
        row = trial(back[op], goal_stops=False)
        left.remove(op)
        order = order[1:]
        if row.meets:
            plain.preferred = row
            current, order, n_fallen = back[op], None, n_fallen - 1
        elif strict:
            return


def hawq_v2(plain: Plain) -> None:
    drawn = plain.drawn
    base = plain.trial(Candidate.of(default_configs(drawn), drawn.space.recipes)).candidate
    with_weight = {o.name for o in drawn.summary.ops if o.weight}
    layers = [op for op in base.quantized_ops[::-1] if op in with_weight]
    order = ranking(drawn, "hessian_trace", layers)
    for n in range(1, len(order) + 1):
        if n < len(base.quantized_ops):
            plain.trial(in_float(base, order[:n]))
