"""A clock that stands still while this process is stopped: Ctrl-Z, a batch job that is suspended.

For what must not run out meanwhile: the patience with silent ranks, the deadline of a trial.
"""

from collections.abc import Callable

LONGEST_STEP_S = 2.0  # the loops of ranks look at their clock far more often


class AwakeClock:
    """Seconds that this process has been awake; to be read often.

    Args:
        now_s: a clock that goes on; of a step between two readings at most `LONGEST_STEP_S` counts.
    """

    def __init__(self, now_s: Callable[[], float]):
        self._now_s = now_s
        self._read_s = now_s()
        self._asleep_s = 0.0

    def __call__(self) -> float:
        before_s, self._read_s = self._read_s, self._now_s()
        self._asleep_s += max(0.0, self._read_s - before_s - LONGEST_STEP_S)
        return self._read_s - self._asleep_s
