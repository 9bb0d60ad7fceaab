"""Every candidate of the op-wise product in order, the last op fastest; quantized options only."""

from collections.abc import Generator

from disttune.strategy.registry import register_strategy
from disttune.strategy.stage import Stage, StageResult
from disttune.strategy.tuning import Tuning


@register_strategy("exhaustive")
class Exhaustive:
    def stages(self, tuning: Tuning) -> Generator[Stage, StageResult, None]:
        yield Stage("op-wise product", iter(tuning.space.op_wise()), needs="goal")
