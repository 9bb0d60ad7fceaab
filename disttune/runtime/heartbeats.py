"""Which ranks have been silent for too long: a stopped process or a node that hangs raises no MPI error."""


class Heartbeats:
    """When each rank was last heard of, from its first word on.

    Args:
        lost_after_s: of silence, after which a rank counts as lost.
    """

    def __init__(self, lost_after_s: float):
        self.lost_after_s = lost_after_s
        self._heard_s: dict[int, float] = {}

    def heard(self, rank: int, now_s: float) -> None:
        self._heard_s[rank] = now_s

    def forget(self, rank: int) -> None:
        """A rank is lost: its silence is no news."""
        self._heard_s.pop(rank, None)

    def silent(self, now_s: float) -> list[int]:
        """Ranks that were not heard of for too long."""
        return [rank for rank, heard_s in self._heard_s.items() if now_s - heard_s > self.lost_after_s]
