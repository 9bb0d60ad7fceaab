"""The trial or probe that a trial process is busy with, as its agent sees it.

Phases: "building" (which may end in "waiting" for works, with the process idle, and begins again), "asking"
what to evaluate, "evaluating" (all of it, or a part, after which it asks again). A probe is measured while
"building".
"""

import math
from dataclasses import dataclass

from disttune.runtime.messages import Built, RunTask


@dataclass
class TrialRun:
    """Its phase and how long that may take.

    Args:
        task: as the master sent it.
        started_s: when it began; time spent waiting is added, so that it does not count.
        preparation_s: that building may take.
    """

    task: RunTask
    started_s: float
    preparation_s: float

    def __post_init__(self) -> None:
        self.built: Built | None = None
        self.may_go_on = False  # the works it waits for are done
        self._waits_since_s = 0.0
        self._is_in_parts = False
        self._enter("building", self.started_s + self.preparation_s)

    @property
    def is_waiting(self) -> bool:
        return self.phase == "waiting"

    def wait(self, now_s: float) -> None:
        """It needs works."""
        self._waits_since_s = now_s
        self._enter("waiting", math.inf)

    def go_on(self, now_s: float) -> None:
        """They are done, and it is built from the beginning."""
        self.may_go_on = False
        self.started_s += now_s - self._waits_since_s
        self._enter("building", now_s + self.preparation_s)

    def ask(self, built: Built) -> None:
        self.built = built
        self._enter("asking", math.inf)

    def scored(self, now_s: float) -> float:
        """A part of the evaluation is done; returns the seconds of work since the last one, or all so far."""
        seconds = now_s - self.started_s
        self._is_in_parts = True
        self._enter("asking", math.inf)
        return seconds

    def evaluate(self, now_s: float) -> None:
        if self._is_in_parts:  # what lies between parts is no work
            self.started_s = now_s
        self._enter("evaluating", now_s + self.task.evaluation_timeout_s)

    def overdue(self, now_s: float) -> str:
        """What took too long; nothing while there is time."""
        if now_s <= self.deadline_s:
            return ""
        if self.phase == "evaluating":
            limit_s = self.task.evaluation_timeout_s
            return f"the evaluation took longer than {limit_s:g} s (tuning.trial_timeout)"
        return f"quantizing took longer than {self.preparation_s:g} s"

    def _enter(self, phase: str, deadline_s: float) -> None:
        self.phase = phase
        self.deadline_s = deadline_s
