"""The default candidate (every op: the first option of its capability), then the end."""

from collections.abc import Generator

from disttune.strategy.registry import register_strategy
from disttune.strategy.stage import Stage, StageResult
from disttune.strategy.tuning import Tuning


@register_strategy("default")
class Default:
    def stages(self, tuning: Tuning) -> Generator[Stage, StageResult, None]:
        yield Stage("default", [tuning.space.default_candidate()], needs="goal")
