"""The running stage: its items drawn in order, where each stands in its life, what waits for a worker.

Pure. The life of an item is the table `LIFE`; a step that the table lacks is a fault of ours.
"""

import heapq
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from disttune.config.errors import InternalError
from disttune.config.goal import Goal
from disttune.schedule.durations import Durations
from disttune.schedule.outcome import Outcome
from disttune.schedule.parts import Parts
from disttune.space.candidate import Candidate
from disttune.strategy.stage import Item, Probe, Stage, StageResult
from disttune.strategy.trial import Trial

LIFE: dict[str, dict[str, str]] = {  # state -> event -> next state
    "waiting": {"assigned": "running", "known": "measured", "cancelled": "cancelled"},
    "running": {"done": "measured", "again": "waiting", "lost": "waiting", "cancelled": "cancelled"},
    "measured": {"committed": "committed", "measured again": "waiting"},
    "cancelled": {},
    "committed": {},
}


@dataclass(eq=False)
class Entry:
    """One item of the stage.

    Args:
        index: position in the stage.
        task: the trial's number; negative for a probe.
        item: candidate or probe.
        repeat_of: number of the first trial with the same candidate.
        ranks: that run it, first come first; several run it twice, or parts of it.
        started_s: when the first of them began.
        expected_s: that it should take, once somebody has asked for it.
        parts: who evaluates which samples, where it is split.
        in_one_piece: it is not split again.
        attempts: runs so far.
        crashes: trial processes it has killed.
        losses: ranks that vanished while they ran it.
        alone: it must run with nothing else on its node.
        avoid: rank on which it has crashed.
        packed: it is measured again, with packed weights.
        to_its_end: its evaluation is not to end early.
    """

    index: int
    task: int
    item: Item
    state: str = "waiting"
    outcome: Outcome | None = None
    repeat_of: int | None = None
    ranks: list[int] = field(default_factory=list)
    started_s: float = 0.0
    expected_s: float | None = None
    parts: Parts | None = None
    in_one_piece: bool = False
    attempts: int = 0
    crashes: int = 0
    losses: int = 0
    alone: bool = False
    avoid: int | None = None
    packed: bool = False
    to_its_end: bool = False

    @property
    def costs_a_trial(self) -> bool:
        return isinstance(self.item, Candidate) and self.repeat_of is None

    def step(self, event: str) -> None:
        if event not in LIFE[self.state]:
            raise InternalError(f"task {self.task} is {self.state}: {event} cannot happen to it")
        self.state = LIFE[self.state][event]


@dataclass(frozen=True, slots=True)
class Ending:
    """Why a stage ends.

    Args:
        reason: "done", "space", or why the search stops.
        stops: whether the search stops with it.
    """

    reason: str
    stops: bool = False


@dataclass(eq=False)
class StageRun:
    """State of one stage from its first item to its result.

    Args:
        index: of the stage in the job.
        stage: as the strategy yielded it.
        durations: where every result is needed: what decides which candidate starts first, as soon as all
            are drawn; else the order of trials does.
    """

    index: int
    stage: Stage
    durations: Durations | None = None
    rows: list[Trial] = field(default_factory=list)
    probe_values: list[object] = field(default_factory=list)
    open: deque[Entry] = field(default_factory=deque)
    n_drawn: int = 0
    n_costing: int = 0
    exhausted: bool = False
    ending: Ending | None = None
    _source: Iterator[Item] = field(init=False)
    _waiting: list[tuple[tuple[float, float], int, Entry]] = field(default_factory=list)
    _longest_first: bool = field(init=False)
    _n_learnt: int = 0  # durations of this stage that the order of `_waiting` rests on
    _n_before: int = field(init=False)  # durations learnt before it
    _alone: deque[Entry] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self._source = iter(self.stage.items)
        self._longest_first = self.durations is not None and isinstance(self.stage.items, list | tuple)
        self._n_before = self.durations.n_learnt if self.durations else 0

    def all_needed(self, goal_can_stop: bool) -> bool:
        """Whether all items are known now (a list) and none can make the others needless."""
        items = self.stage.items
        if not isinstance(items, list | tuple):
            return False
        return not (goal_can_stop and self.stage.goal_stops) or all(isinstance(i, Probe) for i in items[:1])

    def draw(self) -> Item | None:
        """The next item, or None at the end; what the strategy's iterator raises comes through."""
        item = next(self._source, None)
        self.exhausted = item is None
        return item

    def add(self, entry: Entry) -> None:
        self.n_drawn += 1
        self.n_costing += entry.costs_a_trial
        self.open.append(entry)

    def queue(self, entry: Entry) -> None:
        """Let an entry wait for a worker."""
        if entry.alone:
            self._alone.append(entry)
            return
        heapq.heappush(self._waiting, (self._rank(entry), entry.index, entry))

    def again(self, entry: Entry, event: str) -> None:
        """Let it wait once more."""
        entry.step(event)
        self.queue(entry)

    def _rank(self, entry: Entry) -> tuple[float, float]:
        """The least starts first: probes of the greatest cost, candidates by their durations or in order."""
        if isinstance(entry.item, Probe):
            return (-entry.item.cost, 0.0)
        return self.durations.rank(entry.item) if self.durations and self._longest_first else (0.0, 0.0)

    def drawn_to_its_end(self) -> None:
        """What waits is the rest of the stage: from now on the longest starts first here, too."""
        if self.durations is not None and not self._longest_first:
            self._longest_first = True
            self._sort()

    def _sort_again(self) -> None:
        """Rank anew what waits each time that twice as much has been learnt."""
        if self.durations is None or not self._longest_first:
            return
        n_learnt = self.durations.n_learnt - self._n_before
        if n_learnt >= 2 * max(1, self._n_learnt):
            self._n_learnt = n_learnt
            self._sort()

    def _sort(self) -> None:
        self._waiting = [(self._rank(entry), index, entry) for _, index, entry in self._waiting]
        heapq.heapify(self._waiting)

    def close(self, ending: Ending) -> list[Entry]:
        """Draw no more; returns what was drawn ahead and is given up."""
        self.ending = ending
        given_up = list(self.open)
        self.open.clear()
        self._waiting.clear()
        self._alone.clear()
        return given_up

    def next_for(self, rank: int, others: bool) -> Entry | None:
        """The next waiting entry for this rank; one that crashed on it goes to another if there is one."""
        self._sort_again()
        passed = []
        found = None
        while self._waiting and found is None:
            top = heapq.heappop(self._waiting)
            if others and top[2].avoid == rank:
                passed.append(top)
            else:
                found = top[2]
        for top in passed:
            heapq.heappush(self._waiting, top)
        return found

    @property
    def next_waiting(self) -> Entry | None:
        """What would be handed out next."""
        self._sort_again()
        if self._alone:
            return self._alone[0]
        return self._waiting[0][2] if self._waiting else None

    @property
    def n_waiting(self) -> int:
        """Entries that wait for a worker."""
        return len(self._waiting) + len(self._alone)

    @property
    def waits(self) -> bool:
        return bool(self._waiting)

    @property
    def waits_alone(self) -> bool:
        return bool(self._alone)

    def next_alone(self) -> Entry:
        return self._alone.popleft()

    def head(self) -> Entry | None:
        """The first entry that is not committed, when it is ready to be."""
        return self.open[0] if self.open and self.open[0].state == "measured" else None

    def commit_head(self) -> Entry:
        entry = self.open.popleft()
        entry.step("committed")
        self.n_costing -= entry.costs_a_trial
        return entry

    @property
    def complete(self) -> bool:
        return self.exhausted and not self.open

    def result(self, goal: Goal) -> StageResult:
        is_space = self.ending is not None and self.ending.reason == "space"
        return StageResult(
            name=self.stage.name,
            goal=goal,
            trials=tuple(self.rows),
            probes=tuple(self.probe_values),
            reason="space" if is_space else "done",
        )
