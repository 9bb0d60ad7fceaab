"""MSE: ops fall back in the order of the error that quantizing leaves in their output.

1. to 3b. as basic, with at most five combinations op type by op type; 4. a probe of every quantized op:
mean squared error of its output between the float and the best quantized model on the first calibration
feed, over the variance of the float output; 5. ops in float together, greatest error first; 6. where the
goal is still missed, as basic 5.2 and 5.3.

Source: INC 2.6, mse. What we do differently: outputs instead of inputs, one scale for both models, the
impacts of stage 6 belong to the ops that were measured.
"""

from collections.abc import Generator

from disttune.space.changes import in_approach
from disttune.strategy.basic import dynamic_mode, fallback_of_ops, op_type_wise, recipes_at_once
from disttune.strategy.fallback_stages import ops_by_error, together
from disttune.strategy.registry import register_strategy
from disttune.strategy.so_far import SoFar
from disttune.strategy.stage import Stage, StageResult
from disttune.strategy.start import start
from disttune.strategy.tuning import Tuning

MAX_PRODUCT = 5


@register_strategy("mse")
class Mse:
    """See the head of this file.

    Args:
        exact: whether stage 6 tries all ops alone, however few trials are left.
        isolated: whether a probe looks at the model with this op alone quantized. In the best quantized
            model an op's error holds that of all ops before it, so ops near the end come first.
    """

    def __init__(self, exact: bool = False, isolated: bool = False):
        self.exact = exact
        self.isolated = isolated

    def stages(self, tuning: Tuning) -> Generator[Stage, StageResult, None]:
        space = yield from start(tuning)
        so_far = SoFar(tuning, space.default_candidate())
        limit = min(MAX_PRODUCT, len(space.ops))
        yield from so_far.run(Stage("default", [space.default_candidate()]))
        yield from recipes_at_once(tuning, space, so_far)
        yield from op_type_wise(tuning, in_approach(space), so_far, limit)
        yield from dynamic_mode(tuning, space, so_far, limit)
        base = so_far.best
        ranked = yield from ops_by_error(tuning, so_far, base, base.quantized_ops[::-1], self.isolated)
        for float_type in space.float_types:
            yield from together(so_far, base, [(op,) for op in ranked], float_type, "ops by error")
            if not any(row.meets_goal for row in so_far.rows):
                yield from fallback_of_ops(tuning, so_far, base, float_type, self.exact, ranked)
