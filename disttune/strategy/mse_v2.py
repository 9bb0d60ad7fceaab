"""MSE version 2: the op whose return to float mends the model's outputs most falls back, one at a time.

1. and 2. as basic; 3. at most two combinations op type by op type; 4. rounds: a probe of every quantized op
gives the error of the model's outputs with that op in float too; the op that leaves the least falls back,
and the result is evaluated, until the goal is met; 5. where more than one op fell back, rounds the other
way: a probe of every op that fell back with it quantized again, the least error first; what still meets
the goal is kept. The last kept is best. Probes of a round run at the same time.

Source: INC 2.6, mse_v2. What we do differently: errors are over the variance of the float outputs, budgets
hold, and with `strict_revert = false` every op gets its chance to be quantized again.
"""

from collections.abc import Generator, Sequence

from disttune.config.errors import InputError
from disttune.space.candidate import Candidate
from disttune.space.changes import in_approach
from disttune.strategy.basic import op_type_wise, recipes_at_once
from disttune.strategy.fallback_stages import Stages, back_in_float, ranked_by_probe
from disttune.strategy.registry import register_strategy
from disttune.strategy.so_far import SoFar
from disttune.strategy.stage import Probe, Stage, StageResult
from disttune.strategy.start import start
from disttune.strategy.trial import Trial
from disttune.strategy.tuning import Tuning

MAX_PRODUCT = 2


@register_strategy("mse_v2")
class MseV2:
    """See the head of this file.

    Args:
        confidence_batches: calibration feeds that a probe runs on.
        strict_revert: whether stage 5 ends at the first trial that misses the goal.
    """

    def __init__(self, confidence_batches: int = 2, strict_revert: bool = True):
        if isinstance(confidence_batches, bool) or confidence_batches < 1:
            raise InputError(
                "[tuning] strategy_kwargs, strategy mse_v2: confidence_batches must be a whole number of at "
                f"least 1; {confidence_batches!r} was given"
            )
        self.confidence_batches = confidence_batches
        self.strict_revert = strict_revert

    def stages(self, tuning: Tuning) -> Generator[Stage, StageResult, None]:
        space = yield from start(tuning)
        so_far = SoFar(tuning, space.default_candidate())
        yield from so_far.run(Stage("default", [space.default_candidate()]))
        yield from recipes_at_once(tuning, space, so_far)
        yield from op_type_wise(tuning, in_approach(space), so_far, MAX_PRODUCT)
        base = so_far.best
        for float_type in space.float_types:
            if any(row.meets_goal for row in so_far.rows):
                return
            fallen: list[str] = []
            met = yield from self._fall_back(tuning, so_far, base, fallen, float_type)
            if met is not None:
                yield from self._revert(tuning, so_far, base, fallen, met)

    def _fall_back(
        self, tuning: Tuning, so_far: SoFar, base: Candidate, fallen: list[str], float_type: str
    ) -> Generator[Stage, StageResult, Trial | None]:
        """Stage 4; `fallen` takes the ops. Returns the row that meets the goal."""
        current = base
        while len(current.quantized_ops) > 1:
            candidates = {
                op: back_in_float(so_far.space, current, [op], float_type)
                for op in current.quantized_ops[::-1]
                if so_far.space.falls_back_to(op, float_type)
            }
            if not candidates:
                break
            n = len(fallen) + 1
            ranked = yield from self._ranked(tuning, so_far, f"error without op, round {n}", candidates)
            fallen.append(ranked[0])
            current = candidates[ranked[0]]
            stage = Stage(f"{n} op{'s' * (n > 1)} in {float_type}", [current], needs="goal", goal_stops=False)
            result = yield from so_far.run(stage)
            if result.goal_met:
                tuning.prefer(result.trials[0])
                return result.trials[0]
        tuning.note(f"ops in {float_type}: the end, only one op is left quantized, or none can follow")
        return None

    def _revert(
        self, tuning: Tuning, so_far: SoFar, base: Candidate, fallen: Sequence[str], met: Trial
    ) -> Stages:
        """Stage 5."""
        current, left, ranked = met.candidate, list(fallen), list[str]()
        n_fallen = len(fallen)
        while left and n_fallen > 1:
            candidates = {op: current.with_configs({op: base.config_of(op)}) for op in left}
            if not ranked:
                name = f"error with op again, {n_fallen} in float"
                ranked = yield from self._ranked(tuning, so_far, name, candidates)
            op = ranked.pop(0)
            left.remove(op)
            stage = Stage(f"{op} quantized again", [candidates[op]], needs="goal", goal_stops=False)
            result = yield from so_far.run(stage)
            if result.goal_met:
                tuning.prefer(result.trials[0])
                current, ranked, n_fallen = candidates[op], [], n_fallen - 1
            elif self.strict_revert:
                return

    def _ranked(
        self, tuning: Tuning, so_far: SoFar, name: str, candidates: dict[str, Candidate]
    ) -> Generator[Stage, StageResult, list[str]]:
        arguments = {"n_feeds": self.confidence_batches}
        probes = [Probe("fallback_mse", {"op": op, **arguments}, c) for op, c in candidates.items()]
        return (yield from ranked_by_probe(tuning, so_far, name, list(candidates), probes, least=True))
