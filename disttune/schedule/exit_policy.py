"""When to stop: checked at each commit, in trial order, and at each tick of the clock.

Pure. Budgets always stop; a met goal stops only where the stage lets it.
"""

from dataclasses import dataclass
from typing import Literal

from disttune.config.errors import InputError
from disttune.schedule.batch_end import NO_END, BatchEnd
from disttune.schedule.history import History
from disttune.strategy.trial import Trial


@dataclass(frozen=True, slots=True)
class ExitPolicy:
    """The stop conditions of a job.

    Args:
        stop_at: "goal" ends at the first trial that meets the goal; "budget" uses the budget up.
        max_trials: distinct models committed.
        timeout_s: over all restarts of the job; 0 for none.
        find_n: stop after this many distinct trials that meet the goal.
        patience: stop after this many distinct trials without a better best; where latency decides what
            is better, at the end of a stage, since only there it is measured.
        max_repeats: end a stage after this many repeats in a row.
        max_probes: bound on the probes of the whole job.
        early_stop: whether trials that can neither meet the goal nor be the best end early, in stages that
            need no more than whether it is met.
        early_stop_risk: probability with which a trial ends early wrongly; 0 where its bounds are certain.
        batch_end: of the batch job; nothing is started that should end later.
    Raises:
        InputError: more than one trial is to be found, yet the first that meets the goal stops.
    """

    stop_at: Literal["goal", "budget"] = "goal"
    max_trials: int = 100
    timeout_s: float = 0.0
    find_n: int | None = None
    patience: int | None = None
    max_repeats: int = 1000
    max_probes: int | None = None
    early_stop: bool = False
    early_stop_risk: float = 0.0
    batch_end: BatchEnd = NO_END

    def __post_init__(self) -> None:
        if self.stop_at == "goal" and (self.find_n or 0) > 1:
            raise InputError(
                f'[tuning] find_n = {self.find_n} cannot be reached with stop_at = "goal"; '
                'use stop_at = "budget"'
            )

    @property
    def only_counts(self) -> bool:
        """Whether nothing but the number of trials can end a stage before its last one."""
        is_bounded = self.timeout_s > 0 or self.find_n is not None or self.patience is not None
        return self.stop_at == "budget" and not is_bounded

    def after_commit(self, row: Trial, history: History, goal_stops: bool) -> str | None:
        """The reason to stop now, or None."""
        if row.meets_goal and row.eligible and goal_stops and self.stop_at == "goal":
            return "goal"
        if self.find_n is not None and history.n_meeting_goal >= self.find_n:
            return "find_n"
        if not history.latency_decides and self._out_of_patience(history):
            return "patience"
        if history.n_counted >= self.max_trials:
            return "max_trials"
        return None

    def after_latencies(self, history: History) -> str | None:
        """The reason to stop now that the latencies of a stage are known, or None."""
        return "patience" if history.latency_decides and self._out_of_patience(history) else None

    def _out_of_patience(self, history: History) -> bool:
        return self.patience is not None and history.n_since_best >= self.patience

    def timed_out(self, now_s: float) -> bool:
        return self.timeout_s > 0 and now_s >= self.timeout_s
