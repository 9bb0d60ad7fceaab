"""TuningMonitor: the results of a loop of one's own, when it should end, and the best config.

The goal, the best and the stop are those of every disttune job: a trial meets the goal when its result is
at least baseline - tolerable_loss x |baseline|; best is the first that meets it, else the nearest, the
later one on a tie.
"""

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from disttune.config.errors import InputError
from disttune.config.goal import Goal, Objective
from disttune.config.tuning_config import TuningConfig


@dataclass(frozen=True)
class TrialRecord:
    """One result.

    Args:
        trial_index: as the loop counts.
        trial_result: higher is better.
        quant_config: that gave it.
        trial_id: unique.
    """

    trial_index: int
    trial_result: float
    quant_config: Any
    trial_id: str = field(default_factory=lambda: uuid.uuid4().hex)


class TuningMonitor:
    """Keeps the results of a loop.

    Args:
        tuning_config: budget and tolerable loss.
        clock: seconds; `timeout` counts from the construction.
    """

    def __init__(self, tuning_config: TuningConfig, clock: Callable[[], float] = time.monotonic):
        self.tuning_config = tuning_config
        self.tuning_history: list[TrialRecord] = []
        self.baseline: float | None = None
        self._clock = clock
        self._started_s = clock()

    def set_baseline(self, baseline: float) -> None:
        """Tell the result of the float model."""
        self.baseline = float(baseline)

    def add_trial_result(self, trial_index: int, trial_result: float, quant_config: Any) -> None:
        """Tell the result of a trial."""
        self.tuning_history.append(TrialRecord(trial_index, float(trial_result), quant_config))

    def get_number_of_trials(self) -> int:
        return len(self.tuning_history)

    def get_best_trial_record(self) -> TrialRecord:
        """The best so far.

        Raises:
            InputError: there is no result yet.
        """
        if not self.tuning_history:
            raise InputError("TuningMonitor: no trial has a result yet; tell them with add_trial_result")
        met = [record for record in self.tuning_history if self._meets_goal(record)]
        return met[0] if met else max(reversed(self.tuning_history), key=lambda record: record.trial_result)

    def get_best_quant_config(self) -> Any:
        """The config of the best trial."""
        return self.get_best_trial_record().quant_config

    def need_stop(self) -> bool:
        """Whether the last trial meets the goal, or the budget of trials or time is used up."""
        config = self.tuning_config
        if len(self.tuning_history) >= config.max_trials:
            return True
        if config.timeout and self._clock() - self._started_s >= config.timeout:
            return True
        return bool(self.tuning_history) and self._meets_goal(self.tuning_history[-1])

    def _meets_goal(self, record: TrialRecord) -> bool:
        if self.baseline is None:
            return False
        loss = self.tuning_config.tolerable_loss
        goal = Goal((Objective("result"),), (self.baseline,), "relative", loss)
        return goal.meets((record.trial_result,))
