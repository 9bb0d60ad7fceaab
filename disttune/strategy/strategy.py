"""What a strategy is: anything that yields stages."""

from collections.abc import Generator
from typing import Protocol

from disttune.strategy.stage import Stage, StageResult
from disttune.strategy.tuning import Tuning


class Strategy(Protocol):
    """No thread, no callback, no rank, no state between jobs."""

    def stages(self, tuning: Tuning) -> Generator[Stage, StageResult, None]: ...
