"""Plain renderings of the strategies: one candidate after another, no stages, no workers.

Written from the definitions alone, as an oracle: nothing of the strategy package is used, and of the space
only its options, types and recipes.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import product

from disttune.config.schemes import FLOAT32, OpConfig
from disttune.space.candidate import Candidate
from tests.strategy.drawn import Drawn


class Stop(Exception):  # noqa: N818
    """The search is over."""


class Row:
    """One row; metric None: the evaluation failed."""

    def __init__(self, number, candidate, metric, meets, first):
        self.number, self.candidate, self.metric = number, candidate, metric
        self.meets, self.first = meets, first


class Plain:
    """Measures candidates one by one and counts.

    Args:
        drawn: the job.
        stop_at: "goal" or "budget".
    """

    def __init__(self, drawn: Drawn, stop_at: str = "goal"):
        self.drawn, self.stop_at = drawn, stop_at
        self.rows: list[Row] = []
        self.reason = "strategy"

    @property
    def left(self) -> int:
        return self.drawn.max_trials - sum(r.first is None for r in self.rows)

    def run(self, rendering: Callable[["Plain"], object]) -> "Plain":
        try:
            rendering(self)
        except Stop as stop:
            self.reason = str(stop)
        return self

    def trial(self, candidate: Candidate, goal_stops: bool = True) -> Row:
        row = self._row(candidate)
        self.rows.append(row)
        if row.first is None and row.meets and goal_stops and self.stop_at == "goal":
            raise Stop("goal")
        if self.left == 0:
            raise Stop("max_trials")
        return row

    def _row(self, candidate: Candidate) -> Row:
        for row in self.rows:
            same_model = row.candidate.digest == candidate.digest or (
                self.drawn.model(row.candidate) == self.drawn.model(candidate)
            )
            if row.first is None and same_model:
                return Row(len(self.rows), candidate, row.metric, row.meets, row.number)
        try:
            metric = self.drawn.metric(candidate)
        except ValueError:
            metric = None
        quantizes = bool(candidate.quantized_ops)
        meets = metric is not None and quantizes and metric >= self.drawn.goal - 1e-12
        return Row(len(self.rows), candidate, metric, meets, None)

    def table(self) -> list[tuple[object, ...]]:
        return [(r.number, r.candidate.digest, r.metric, r.meets, r.first) for r in self.rows]


def table(simulation) -> list[tuple[object, ...]]:
    """The same columns of a simulation."""
    return [
        (number, digest, None if values is None else values[0], meets, first)
        for number, _, digest, _, values, meets, _, first, *_ in simulation.table
    ]


def best_row(
    rows: Sequence[Row], goal: float, preference: Callable[[Candidate], object] | None
) -> Row | None:
    """By the rules of the best: meeting first, then preference or order; else nearest, the later on a tie."""
    usable = [r for r in rows if r.metric is not None and r.candidate.quantized_ops]
    meeting = [r for r in usable if r.meets]
    if meeting:
        return max(meeting, key=lambda r: preference(r.candidate)) if preference else meeting[0]
    return min(reversed(usable), key=lambda r: goal - r.metric, default=None)


# Conservative

GIVEN_ORDER = [
    "Conv", "ConvTranspose", "MatMul", "Gemm", "Attention", "LSTM", "GRU",
    "Gather", "GatherElements", "GatherND", "EmbedLayerNormalization",
]  # fmt: skip


def default_configs(drawn: Drawn) -> dict[str, OpConfig]:
    space = drawn.space
    return {o: FLOAT32 if o in space.float_sets[0] else options[0] for o, options in space.options.items()}


def conservative(plain: Plain) -> Row | None:
    drawn, space = plain.drawn, plain.drawn.space
    default = default_configs(drawn)
    present = list(dict.fromkeys(space.types[o] for o in space.ops if default[o].quantized))

    def macs(op_type: str) -> int:
        return sum(o.n_macs for o in drawn.summary.ops if o.name in default and o.op_type == op_type)

    rest = sorted([t for t in present if t not in GIVEN_ORDER], key=macs, reverse=True)
    configs, kept = dict.fromkeys(space.ops, FLOAT32), None
    for op_type in [t for t in GIVEN_ORDER if t in present] + rest:
        tried = {o: default[o] if space.types[o] == op_type else c for o, c in configs.items()}
        row = plain.trial(Candidate.of(tried, space.recipes), goal_stops=False)
        if row.meets:
            configs, kept = tried, row
    return kept


def quantized(drawn: Drawn) -> Callable[[Candidate], tuple[float, int]]:
    """Share of the multiply-adds (of the ops where none are counted), then number of ops."""
    macs = {o.name: o.n_macs for o in drawn.summary.ops if o.name in drawn.space.ops}
    macs = macs if any(macs.values()) else dict.fromkeys(macs, 1)

    def preference(candidate: Candidate) -> tuple[float, int]:
        ops = candidate.quantized_ops
        return sum(macs[o] for o in ops) / sum(macs.values()), len(ops)

    return preference


# Basic


def basic(plain: Plain, exact: bool = False, known: Sequence[Row] = ()) -> None:
    drawn, space = plain.drawn, plain.drawn.space
    rows = list(known)

    def trial(candidate: Candidate) -> Row:
        rows.append(plain.trial(candidate))
        return rows[-1]

    def best() -> Candidate:
        row = best_row(rows, drawn.goal, quantized(drawn) if known else None)
        return row.candidate if row else default

    def tried(candidate: Candidate) -> bool:
        return any(r.candidate == candidate for r in rows)

    default = Candidate.of(default_configs(drawn), space.recipes)
    limit = 10**9 if exact else min(36, drawn.max_trials // 4)
    if not rows:
        trial(default)
    # all recipes
    changed = recipes_other(drawn, best(), list(space.float_recipes))
    if space.float_recipes and changed.quantized_ops and not tried(changed):
        trial(changed)
    # op types
    for candidate in islice_new(op_type_product(drawn, None), tried, limit):
        trial(candidate)
    # dynamic
    if any({"static", "dynamic"} <= {c.approach for c in options} for options in space.options.values()):
        switched = all_dynamic(drawn, best())
        if not tried(switched):
            trial(switched)
        for candidate in islice_new(op_type_product(drawn, "dynamic"), tried, limit):
            trial(candidate)
    # recipes one by one
    base, singles = best(), []
    for recipe in space.float_recipes:
        changed = recipes_other(drawn, base, [recipe])
        if changed.quantized_ops and not tried(changed):
            singles.append(changed)
    for candidate in singles:
        trial(candidate)
    # fallback
    base = best()
    blocks = [[o for o in block if o in base.quantized_ops] for block in reversed(drawn.blocks)]
    fall_back(trial, base, [b for b in blocks if len(b) > 1])
    ops = base.quantized_ops[::-1]
    affordable = max(1, plain.left // 2)
    if len(ops) > affordable and not exact:
        scores = {o: error_of(drawn, o) for o in ops}
        known_scores = sorted((o for o in ops if scores[o] is not None), key=lambda o: -scores[o])
        ops = (known_scores + [o for o in ops if scores[o] is None])[:affordable]
    fall_back(trial, base, [[o] for o in ops])


def error_of(drawn: Drawn, op: str) -> float | None:
    """What the simulated probe says of an op."""
    value = len(op) * 7919 % 5 + drawn.seed % 3
    return None if value == 2 else float(value)


def islice_new(
    candidates: Iterator[Candidate], tried: Callable[[Candidate], bool], limit: int
) -> Iterator[Candidate]:
    given: list[Candidate] = []
    for candidate in candidates:
        if len(given) == limit:
            return
        if candidate not in given and not tried(candidate):
            given.append(candidate)
            yield candidate


def recipes_other(drawn: Drawn, base: Candidate, recipes: Sequence[str]) -> Candidate:
    """The base with these recipes the other way round."""
    space = drawn.space
    is_off = {r: (r in space.recipes_off) != (r in recipes) for r in space.float_recipes}
    configs = base.configs()
    for recipe in recipes:
        for o in space.float_recipes[recipe]:
            held = any(off and o in space.float_recipes[r] for r, off in is_off.items())
            if is_off[recipe]:
                configs[o] = FLOAT32
            elif not held:
                configs[o] = space.options[o][0]
    return Candidate.of(configs, space.recipes)


def op_type_product(drawn: Drawn, approach: str | None) -> Iterator[Candidate]:
    """Product over op types of the unions of options, in the order of attributes; the last type fastest."""
    space, default = drawn.space, default_configs(drawn)
    own: dict[str, list[OpConfig]] = {}
    for o, options in space.options.items():
        kinds = [c.approach for c in options]
        mode = approach if approach in kinds else kinds[0]
        own[o] = [c for c in options if c.approach == mode]
    groups: dict[tuple[str, str], list[str]] = {}
    for o in space.ops:
        if default[o].quantized:
            groups.setdefault((space.types[o], own[o][0].approach), []).append(o)
    lists = []
    for ops in groups.values():
        offered = [c for o in ops for c in own[o]]
        values = [list(dict.fromkeys(attributes(c)[i] for c in offered)) for i in range(6)]
        by_value = {attributes(c): c for c in offered}
        lists.append([by_value[v] for v in product(*values) if v in by_value])
    for chosen in product(*lists):
        configs = dict(default)
        for ops, config in zip(groups.values(), chosen, strict=True):
            for o in ops:
                configs[o] = config if config in own[o] else own[o][0]
        yield Candidate.of(configs, space.recipes)


def attributes(config: OpConfig) -> tuple[object, ...]:
    found: list[object] = []
    for scheme in (config.activation, config.weight):
        if scheme is None:
            found += [None, None, None]
        else:
            found += [(scheme.dtype, scheme.symmetric), (scheme.method, scheme.parameter), scheme.granularity]
    return tuple(found)


def all_dynamic(drawn: Drawn, base: Candidate) -> Candidate:
    configs = base.configs()
    for o, config in configs.items():
        dynamic = [c for c in drawn.space.options[o] if c.approach == "dynamic"]
        if config.approach == "static" and dynamic:
            wanted = attributes(config)
            for i in range(6):  # one attribute after another, kept where some option has it
                dynamic = [c for c in dynamic if attributes(c)[i] == wanted[i]] or dynamic
            configs[o] = dynamic[0]
    return Candidate.of(configs, drawn.space.recipes)


def fall_back(trial: Callable[[Candidate], Row], base: Candidate, groups: Sequence[Sequence[str]]) -> None:
    """Each group alone, then the best two, three ... together; never everything."""
    n_quantized = len(base.quantized_ops)
    groups = [g for g in groups if 0 < len(g) < n_quantized]
    rows = [trial(in_float(base, g)) for g in groups]

    def impact(i: int) -> float:
        return float("-inf") if rows[i].metric is None else rows[i].metric

    order = sorted(range(len(groups)), key=lambda i: -impact(i))
    for n in range(2, len(groups) + 1):
        ops = {o for i in order[:n] for o in groups[i]}
        if len(ops) < n_quantized:
            trial(in_float(base, ops))


def in_float(base: Candidate, ops) -> Candidate:
    return Candidate.of(
        {o: FLOAT32 if o in ops else c for o, c in base.configs().items()}, dict(base.recipes)
    )


# Auto


def auto(plain: Plain, presets: bool = True) -> None:
    drawn, space = plain.drawn, plain.drawn.space
    known = [plain.trial(Candidate.of(default_configs(drawn), space.recipes))]
    if presets:
        known += [plain.trial(candidate) for candidate in space.presets.values()]
    kept = conservative(plain)
    if kept is not None and quantized(drawn)(kept.candidate)[0] >= 0.5:
        return
    basic(plain, known=known)
