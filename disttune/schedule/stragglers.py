"""Stragglers: which running trial is worth a second run on an idle rank, and whether both runs agree.

Pure. One that is expected to end long after a second run of it would: because its rank has been slow with
others, or because it has taken several times what its kind takes.
"""

from collections.abc import Callable, Iterable

from disttune.schedule.durations import Durations
from disttune.schedule.events import Cancel, TaskDone
from disttune.schedule.outcome import Outcome
from disttune.schedule.stage_run import Entry
from disttune.space.candidate import Candidate

GAIN = 2.0  # a trial's rest must take so many times what a second run takes
OVERDUE = 3.0  # times what was expected: who knows how much longer
LEARNING = 0.5  # weight of a rank's latest trial in its pace
LOOK_EVERY = 0.1  # of a trial's mean seconds


class Stragglers:
    """Learns how slow each rank is, and finds what to run twice.

    Args:
        durations: what trials should take.
    """

    def __init__(self, durations: Durations):
        self._durations = durations
        self._paces: dict[int, float] = {}
        self._next_look_s = 0.0
        self._beaten: dict[int, tuple[int, int, Outcome]] = {}  # by rank: assignment, task, what came first

    def learn(self, candidate: Candidate, seconds: float, rank: int) -> None:
        """Take in what one took on a rank; to be called before `durations` learn of it."""
        expected_s = self._durations.expected_s(candidate)
        if expected_s is not None and expected_s > 0:
            before = self._paces.get(rank, 1.0)
            self._paces[rank] = before + LEARNING * (seconds / expected_s - before)

    def find(
        self, running: Iterable[Entry], idle: Callable[[], Iterable[int]], now_s: float
    ) -> list[tuple[int, Entry]]:
        """Ranks and what they should run as well, worst first.

        It looks at what runs now and then only, and at what is idle only with a straggler, so that most
        events cost nothing.
        """
        if now_s < self._next_look_s or self._durations.mean_s is None:
            return []
        self._next_look_s = now_s + LOOK_EVERY * self._durations.mean_s
        rests = ((self._rest_s(e, now_s), -e.index, e) for e in running if _may_run_twice(e))
        worth = [rest for rest in rests if rest[0] > GAIN * self._expected_s(rest[2])]
        if not worth:
            return []
        worth.sort(key=_first_two, reverse=True)
        return [
            (rank, entry)
            for (rest_s, _, entry), rank in zip(worth, sorted(idle(), key=self._pace), strict=False)
            if rank != entry.avoid and rest_s > GAIN * self._expected_s(entry) * self._pace(rank)
        ]

    def beaten(self, cancel: Cancel, task: int, first: Outcome) -> None:
        """The other run of a trial was first, this one is cancelled; its answer may be on its way."""
        self._beaten[cancel.rank] = cancel.assignment, task, first

    def late_answer(self, event: TaskDone) -> str:
        """What to tell of a cancelled run's answer that came all the same; "" when it is the first's."""
        assignment, task, first = self._beaten.get(event.rank, (None, 0, event.outcome))
        if assignment != event.assignment:
            return ""
        del self._beaten[event.rank]
        late = event.outcome
        if "pruned" in (late.status, first.status):  # they did not know the same best
            return ""
        if (late.status, late.values, late.model_digest) == (first.status, first.values, first.model_digest):
            return ""
        return (
            f"trial {task} ran twice: {_found(first)} on rank {first.rank}, which counts, and "
            f"{_found(late)} on rank {late.rank}. The evaluation is not deterministic"
        )

    def _rest_s(self, entry: Entry, now_s: float) -> float:
        takes_s = self._expected_s(entry) * self._pace(entry.ranks[0])
        for_s = now_s - entry.started_s
        return for_s if for_s > OVERDUE * takes_s else takes_s - for_s

    def _expected_s(self, entry: Entry) -> float:
        """As the first look at it finds: this is asked of all that runs, time and again."""
        if entry.expected_s is None:
            entry.expected_s = self._durations.expected_s(entry.item) or 0.0
        return entry.expected_s

    def _pace(self, rank: int) -> float:
        """Times what is expected; 1 for a rank that nothing is known of."""
        return self._paces.get(rank, 1.0)


def _found(outcome: Outcome) -> str:
    """What a run of a trial gave, in words."""
    return str(outcome.values) if outcome.status == "ok" else outcome.status


def _first_two(rest: tuple[float, int, Entry]) -> tuple[float, int]:
    return rest[:2]


def _may_run_twice(entry: Entry) -> bool:
    is_one_run = len(entry.ranks) == 1 and entry.parts is None
    return isinstance(entry.item, Candidate) and is_one_run and not entry.alone
