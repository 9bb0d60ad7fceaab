"""What a strategy can see and say while it tunes: the space, the goal, the trials so far, its preference."""

from dataclasses import dataclass, field

from disttune.config.goal import Goal
from disttune.space.space import Space
from disttune.space.summary import ModelSummary
from disttune.strategy.trial import Trial


@dataclass
class Tuning:
    """Handed to `stages(tuning)`; the scheduler keeps `trials` up to date.

    Args:
        space: every candidate of the job, countable and indexable.
        summary: the model's ops.
        goal: targets and directions.
        seed: for every random choice.
        batch_size: candidates a sampler asks for at a time, independent of the number of ranks.
        max_trials: the whole budget.
        trials: committed rows so far, in order.
    """

    space: Space
    summary: ModelSummary
    goal: Goal
    seed: int = 0
    batch_size: int = 16
    max_trials: int = 100
    trials: list[Trial] = field(default_factory=list)
    preferred: int | None = None

    def prefer(self, trial: Trial) -> None:
        """Name the trial that is best with objective "first" (it must meet the goal to count)."""
        self.preferred = trial.number
