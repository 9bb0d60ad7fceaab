"""The end of the batch job: whether what would be handed out can be expected to end before it.

Pure. The end is a fact that comes in from outside, in seconds of the job.
"""

import math
from dataclasses import dataclass

LONGER = 1.25  # than expected, what is handed out may take


@dataclass(frozen=True, slots=True)
class BatchEnd:
    """When everything must be on disk.

    Args:
        ends_s: job second at which work stops, room to write the rest already taken off.
        first_s: what an item is expected to take before any has been measured.
    """

    ends_s: float = math.inf
    first_s: float = 0.0

    @property
    def is_never(self) -> bool:
        return math.isinf(self.ends_s)

    def fits(self, now_s: float, expected_s: float | None) -> bool:
        """Whether something that starts now ends in time.

        Args:
            expected_s: that it takes; None when nothing has been measured.
        """
        return now_s + LONGER * (self.first_s if expected_s is None else expected_s) <= self.ends_s

    def notice(self, now_s: float, expected_s: float | None) -> str:
        """For the user: why nothing more is started."""
        left_s = max(0.0, self.ends_s - now_s)
        expected_s = self.first_s if expected_s is None else expected_s
        return (
            f"the batch job ends soon: {left_s:.0f} s are left for work, and the next trial takes about "
            f"{expected_s:.2g} s; no more are started"
        )


NO_END = BatchEnd()
