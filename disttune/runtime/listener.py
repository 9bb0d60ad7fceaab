"""What the runtime tells while it works; the API wires it to a report."""

from dataclasses import dataclass
from typing import Protocol

from disttune.config.goal import Goal
from disttune.space.space import Space
from disttune.strategy.trial import Trial


@dataclass(frozen=True, slots=True)
class Opening:
    """What is known when the search begins.

    Args:
        run_directory: where everything is written.
        n_ranks: of the job.
        n_nodes: that they share.
        strategy: its name.
        space: all candidates.
        goal: baseline, target and direction.
        n_resumed: trials that an earlier session of this job has measured.
        max_trials: the budget.
    """

    run_directory: str
    n_ranks: int
    n_nodes: int
    strategy: str
    space: Space
    goal: Goal
    n_resumed: int
    max_trials: int


class Listener(Protocol):
    """All calls come from rank 0, in order."""

    def phase(self, text: str) -> None:
        """What is being done now: before the search begins, or works that take long during it."""

    def opened(self, opening: Opening) -> None:
        """The search begins."""

    def stage_opened(self, name: str) -> None: ...

    def committed(self, trial: Trial, best: Trial | None) -> None:
        """A row of the trial table is final and on disk."""

    def progress(self, n_committed: int, n_running: int, elapsed_s: float) -> None:
        """About once a second."""

    def noted(self, text: str) -> None:
        """Something the strategy tells, e.g. why a stage is skipped."""

    def warned(self, text: str) -> None:
        """Something the user should read once."""


class Silent:
    """Tells nobody."""

    def phase(self, text: str) -> None: ...

    def opened(self, opening: Opening) -> None: ...

    def stage_opened(self, name: str) -> None: ...

    def committed(self, trial: Trial, best: Trial | None) -> None: ...

    def progress(self, n_committed: int, n_running: int, elapsed_s: float) -> None: ...

    def noted(self, text: str) -> None: ...

    def warned(self, text: str) -> None: ...
