"""Basic: the default, recipes, combinations op type by op type, then fallback from the best so far.

1. the default candidate; 2. all open recipes at once; 3. the product over op types, the default left
out; 3b. with both approaches: the best so far with all ops that can do both moved to dynamic, then the
product in that mode; 4. open recipes one by one on the best so far; 4b. of weights alone those below 8 bits
get 8, where the job lists them (`wider_weights`); 5. from the best so far, ops go back to float: 5.1
transformer blocks, each alone, then together; 5.2 every op alone, from the graph's end; 5.3 together, those
that gained most first. Calibration sizes given as a list repeat all of it for each.

Source: INC 2.6, quant_level 1. What we do differently: bounds on 3 and on 5.2, 4b, generic blocks in order of
impact, the same result on any number of ranks.
"""

from collections.abc import Collection, Generator, Iterable, Iterator, Sequence

from disttune.space.blocks import transformer_blocks
from disttune.space.candidate import Candidate
from disttune.space.changes import has_both_approaches, in_approach, switched_to, with_recipes_switched
from disttune.space.dimensions import Dimensions, op_type_dimensions
from disttune.space.space import Space
from disttune.strategy.calibration_sizes import renamed, spaces_by_size
from disttune.strategy.fallback_stages import Stages, alone_then_together, ops_by_error
from disttune.strategy.registry import register_strategy
from disttune.strategy.so_far import SoFar
from disttune.strategy.stage import Stage, StageResult
from disttune.strategy.start import start
from disttune.strategy.trial import Trial
from disttune.strategy.tuning import Tuning
from disttune.strategy.wider_weights import weights_in_8_bits

MAX_PRODUCT = 36  # candidates of stage 3
PRODUCT_SHARE = 4  # of the budget, at most one in so many


@register_strategy("basic")
class Basic:
    """See the head of this file.

    Args:
        exact: lift the bounds on the product of stage 3 and on the ops of 5.2.
    """

    tries_calibration_sizes = True

    def __init__(self, exact: bool = False):
        self.exact = exact

    def stages(self, tuning: Tuning) -> Generator[Stage, StageResult, None]:
        space = yield from start(tuning)
        yield from self.search(tuning, space)

    def search(self, tuning: Tuning, space: Space, rows: Iterable[Trial] = ()) -> Stages:
        """The stages, within a space that is settled; rows given are the best so far at first."""
        for suffix, sized in spaces_by_size(tuning, space):
            yield from renamed(self._search(tuning, sized, () if suffix else rows), suffix)

    def _search(self, tuning: Tuning, space: Space, rows: Iterable[Trial]) -> Stages:
        so_far = SoFar(tuning, space.default_candidate(), rows)
        limit = None if self.exact else min(MAX_PRODUCT, tuning.max_trials // PRODUCT_SHARE)
        if not so_far.rows:
            yield from so_far.run(Stage("default", [space.default_candidate()]))
        yield from recipes_at_once(tuning, space, so_far)
        yield from op_type_wise(tuning, in_approach(space), so_far, limit)
        yield from dynamic_mode(tuning, space, so_far, limit)
        yield from recipes_one_by_one(tuning, space, so_far)
        yield from weights_in_8_bits(tuning, space, so_far)
        base = so_far.best
        for float_type in space.float_types:
            yield from self._fallback(tuning, so_far, base, float_type)

    def _fallback(self, tuning: Tuning, so_far: SoFar, base: Candidate, float_type: str) -> Stages:
        yield from fallback_of_blocks(tuning, so_far, base, float_type)
        yield from fallback_of_ops(tuning, so_far, base, float_type, self.exact)


def recipes_at_once(tuning: Tuning, space: Space, so_far: SoFar) -> Stages:
    """Stage 2."""
    candidate = with_recipes_switched(space, so_far.best, space.float_recipes)
    reason = _needless(space, so_far, candidate)
    if reason is not None:
        tuning.note(f"all recipes: skipped, {reason}")
    else:
        yield from so_far.run(Stage("all recipes", [candidate]))


def op_type_wise(tuning: Tuning, space: Space, so_far: SoFar, limit: int | None, name: str = "") -> Stages:
    """Stage 3.

    Args:
        tuning: is told of cuts.
        space: with one approach for each op.
        so_far: takes the rows; what it has tried is left out.
        limit: most candidates, or None.
        name: of the mode.
    """
    title = f"op-type-wise{name}"
    grid = op_type_dimensions(space)
    tried = so_far.tried
    if limit == 0:
        tuning.note(f"{title}: skipped, max_trials = {tuning.max_trials} leaves no trial for it")
        return
    if next(_new_points(grid, tried, 1), None) is None:
        tuning.note(f"{title}: skipped, all combinations of the op types' options were tried")
        return
    if limit is not None and grid.size - 1 > limit:
        tuning.note(f"{title}: the first {limit} of {grid.size} (strategy_kwargs.exact takes all)")
    yield from so_far.run(Stage(title, _new_points(grid, tried, limit)))


def dynamic_mode(tuning: Tuning, space: Space, so_far: SoFar, limit: int | None) -> Stages:
    """Stage 3b."""
    if not has_both_approaches(space):
        if len({o.approach for options in space.options.values() for o in options}) > 1:
            tuning.note("dynamic: skipped, no op can do both static and dynamic")
        return
    candidate = switched_to(space, so_far.best, "dynamic")
    if candidate.digest in so_far.tried:
        tuning.note("dynamic: skipped, the best so far is dynamic wherever it can be")
    else:
        yield from so_far.run(Stage("dynamic", [candidate]))
    yield from op_type_wise(tuning, in_approach(space, "dynamic"), so_far, limit, " dynamic")


def recipes_one_by_one(tuning: Tuning, space: Space, so_far: SoFar) -> Stages:
    """Stage 4."""
    base, candidates = so_far.best, []
    for recipe in space.float_recipes:
        candidate = with_recipes_switched(space, base, [recipe])
        reason = _needless(space, so_far, candidate)
        if reason is not None:
            tuning.note(f"recipe {recipe}: skipped, {reason}")
        else:
            candidates.append(candidate)
    if candidates:
        yield from so_far.run(Stage("recipes one by one", candidates))


def fallback_of_blocks(tuning: Tuning, so_far: SoFar, base: Candidate, float_type: str) -> Stages:
    """Stage 5.1."""
    blocks = transformer_blocks(tuning.summary, base.quantized_ops)
    if not blocks:
        tuning.note("blocks in float: skipped, no transformer block is quantized")
    groups = [block.ops for block in reversed(blocks)]
    yield from alone_then_together(so_far, base, groups, float_type, "blocks")


def fallback_of_ops(
    tuning: Tuning, so_far: SoFar, base: Candidate, float_type: str, exact: bool, ranked: Sequence[str] = ()
) -> Stages:
    """Stages 5.2 and 5.3.

    Args:
        tuning: is told of cuts.
        so_far: takes the rows.
        base: to fall back from.
        float_type: to fall back to.
        exact: whether all ops are tried, however few trials are left.
        ranked: the ops by the error of their output, where that is known already.
    """
    ops: Sequence[str] = base.quantized_ops[::-1]
    if len(ops) < 2:
        tuning.note("ops in float: skipped, only one op is quantized")
        return
    n_affordable = max(1, tuning.n_trials_left // 2)
    if len(ops) > n_affordable and not exact:
        tuning.note(
            f"ops one by one: {n_affordable} of {len(ops)}, half of the trials left; those with the greatest "
            "error (strategy_kwargs.exact takes all)"
        )
        ranked = ranked or (yield from ops_by_error(tuning, so_far, base, ops))
        ops = ranked[:n_affordable]
    yield from alone_then_together(so_far, base, [(op,) for op in ops], float_type, "ops")


def _new_points(grid: Dimensions, tried: Collection[str], limit: int | None) -> Iterator[Candidate]:
    """Candidates of a grid in order that were not tried, each once."""
    index, given = 0, set[str]()
    while index < grid.size and (limit is None or len(given) < limit):
        candidate = grid.candidate(grid.point(index))
        index += 1
        if candidate.digest not in tried and candidate.digest not in given:
            given.add(candidate.digest)
            yield candidate


def _needless(space: Space, so_far: SoFar, candidate: Candidate) -> str | None:
    """Why a candidate that recipes make is worth no trial, or None."""
    if not space.float_recipes:
        return "the job leaves none open that changes this model"
    if not candidate.quantized_ops:
        return "nothing would be quantized"
    if candidate.digest in so_far.tried:
        return "it changes nothing or was tried already"
    return None
