"""The scores of split trials on rank 0, until all blocks of a trial are there.

What ranks have scored stays when they are lost; only what lies between two messages is done again.
"""

from dataclasses import dataclass, field
from typing import Any

from disttune.config.errors import InternalError
from disttune.runtime.messages import PartScored


@dataclass
class _Trial:
    by_block: dict[int, Any] = field(default_factory=dict)
    seconds: float = 0.0
    evaluation_s: float = 0.0


class PartScores:
    """By trial."""

    def __init__(self) -> None:
        self._trials: dict[int, _Trial] = {}

    def add(self, task: int, part: PartScored) -> float:
        """Keep the scores of a part; returns the seconds that all parts so far have taken to evaluate."""
        trial = self._trials.setdefault(task, _Trial())
        trial.by_block.update(zip(part.blocks, part.scores, strict=True))
        trial.seconds += part.seconds
        trial.evaluation_s += part.evaluation_s
        return trial.evaluation_s

    def all_of(self, task: int) -> tuple[Any, ...]:
        """The scores of every block of a trial, in order.

        Raises:
            InternalError: some are missing.
        """
        by_block = self._trials[task].by_block
        if sorted(by_block) != list(range(len(by_block))):
            raise InternalError(
                f"trial {task} has scores of {len(by_block)} blocks, and not of the first ones"
            )
        return tuple(by_block[block] for block in range(len(by_block)))

    def drop(self, task: int) -> tuple[float, float]:
        """Forget a trial; returns the seconds of its parts, and of their evaluation alone."""
        trial = self._trials.pop(task, _Trial())
        return trial.seconds, trial.evaluation_s
