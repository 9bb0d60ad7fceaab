"""Auto: the default, presets, conservative, basic, with one budget; the default of a job.

1. the default candidate: where it meets the goal, that is the end (with stop_at "goal");
2. presets that differ on this model, at the same time (see `space/presets.py`);
3. conservative; when its result meets the goal with at least half of the computing quantized, the end;
4. basic. Of all that meet the goal the one with most of its computing quantized is best.

Source: INC 2.6, quant_level "auto". What we do differently: the presets, and a result that is nearly all
float is no reason to stop.
"""

from collections.abc import Generator

from disttune.space.compute import quantized_share
from disttune.strategy.basic import Basic
from disttune.strategy.conservative import prefer_quantized, type_by_type
from disttune.strategy.registry import register_strategy
from disttune.strategy.so_far import SoFar
from disttune.strategy.stage import Stage, StageResult
from disttune.strategy.start import start
from disttune.strategy.tuning import Tuning

ENOUGH_QUANTIZED = 0.5  # share of the computing


@register_strategy("auto")
class Auto:
    """See the head of this file.

    Args:
        presets: whether stage 2 takes place.
        exact: lift the bounds of basic.
    """

    tries_calibration_sizes = True

    def __init__(self, presets: bool = True, exact: bool = False):
        self.presets = presets
        self.basic = Basic(exact)

    def stages(self, tuning: Tuning) -> Generator[Stage, StageResult, None]:
        prefer_quantized(tuning)
        space = yield from start(tuning)
        so_far = SoFar(tuning, space.default_candidate())
        yield from so_far.run(Stage("default", [space.default_candidate()]))
        if not self.presets:
            tuning.note("presets: left out by strategy_kwargs.presets")
        elif not space.presets:
            tuning.note("presets: skipped, none differs from the default on this model")
        else:
            yield from so_far.run(Stage("presets", list(space.presets.values())))
        kept = yield from type_by_type(tuning, space)
        if kept is not None:
            share = quantized_share(kept.candidate, tuning.summary)
            if share >= ENOUGH_QUANTIZED:
                return
            tuning.note(f"conservative meets the goal with {share:.0%} of the computing quantized: basic")
        yield from self.basic.search(tuning, space, so_far.rows)
