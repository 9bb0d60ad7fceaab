"""When a trial is split and how: decided from what building and evaluating have taken so far.

Pure. Splitting decides who works on what, never what is proposed, counted or best.

A rank that helps has to build the model and to open a session first: the overhead. With h ranks at work
and R seconds of scoring left, one more ends the trial sooner when R / h is more than that; here it has to
be `GAIN` times as much. Ranks take a share of what is left that shrinks towards the end, so that all end
together, in parts that are long enough for a message to cost little.
"""

import heapq
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from disttune.schedule.outcome import Outcome
from disttune.schedule.parts import Parts
from disttune.schedule.stage_run import Entry
from disttune.space.candidate import Candidate

GAIN = 2.0  # times the overhead
SHORTEST_PART_S = 0.05
LONGEST_PART_S = 0.25  # or the overhead, or a share of the evaluation, whichever is most
LONGEST_SHARE = 1 / 32
LEARNING = 0.25  # weight of the latest overhead
LOOK_EVERY = 0.05  # of an evaluation
LOOK_FOR_NEW_EVERY = 0.005  # once more trials are split


@dataclass(frozen=True, slots=True)
class Splitting:
    """What can be split.

    Args:
        n_blocks: of samples in an evaluation; 0: it cannot be split.
        evaluation_s: that the float model's took; 0 when it was not measured.
        n_ranks: of the job; some may join after the first trial has begun.
    """

    n_blocks: int = 0
    evaluation_s: float = 0.0
    n_ranks: int = 1


NO_SPLITTING = Splitting()


class SplitTrials:
    """Learns what splitting costs, and says when it pays.

    Args:
        splitting: what can be split.
    """

    def __init__(self, splitting: Splitting):
        self.n_ranks = splitting.n_ranks
        self._n_blocks = splitting.n_blocks
        self._evaluation_s = splitting.evaluation_s
        self._n_learnt = 0
        self._overhead_s: float | None = None
        self._looked_s = -math.inf
        self._has_new = False
        self._has_some = False  # as the last look found

    def learn(self, outcome: Outcome) -> None:
        """Take in how long a trial took."""
        if outcome.status != "ok" or outcome.evaluation_s <= 0:
            return
        self._n_learnt += 1
        self._evaluation_s += (outcome.evaluation_s - self._evaluation_s) / self._n_learnt

    def learn_overhead(self, seconds: float) -> None:
        """Take in what a rank needed before it could score the first block of its part."""
        before = seconds if self._overhead_s is None else self._overhead_s
        self._overhead_s = before + LEARNING * (seconds - before)

    def begin(self, entry: Entry, model_digest: str, built_s: float) -> bool:
        """Whether an entry whose model is built is evaluated in parts from now on.

        Args:
            built_s: that building took.
        """
        if not self._n_blocks or entry.alone or entry.in_one_piece or not isinstance(entry.item, Candidate):
            return False
        overhead_s = built_s if self._overhead_s is None else self._overhead_s
        if self._evaluation_s < max(GAIN * overhead_s, 4 * SHORTEST_PART_S) or self._n_blocks < 2:
            return False
        entry.parts = Parts(self._n_blocks, model_digest, self._evaluation_s)
        self._has_new = True
        return True

    def size(self, parts: Parts, hands: int, busy_share: float) -> int:
        """Blocks of the next part.

        Args:
            hands: ranks that work on the trial, or could.
            busy_share: of an evaluation, during which no other rank is going to be idle.
        """
        share = max(LONGEST_SHARE, busy_share)
        longest_s = max(LONGEST_PART_S, self._overhead_s or 0.0, share * parts.evaluation_s)
        part_s = min(longest_s, parts.waiting_s / (2 * hands))
        return (
            max(1, round(max(SHORTEST_PART_S, part_s) / parts.block_s)) if parts.block_s else parts.n_blocks
        )

    def help(
        self, running: Iterable[Entry], idle: Callable[[], Iterable[int]], now_s: float
    ) -> list[tuple[int, Entry]]:
        """Idle ranks and what they should help with; each goes where most is left for each rank.

        It looks at what runs now and then only, sooner when another trial has begun to be split.
        """
        every = (LOOK_FOR_NEW_EVERY if self._has_new else LOOK_EVERY) if self._has_some else 0.0
        if not (self._has_new or self._has_some) or now_s - self._looked_s < every * self._evaluation_s:
            return []
        self._looked_s, self._has_new, self._has_some = now_s, False, False
        worth_s = max(GAIN * (self._overhead_s or 0.0), SHORTEST_PART_S)
        heap: list[tuple[float, int, Entry]] = []
        found: list[tuple[int, Entry]] = []
        ranks = iter(idle())
        hands: dict[int, int] = {}
        for entry in dict.fromkeys(running):
            parts = entry.parts
            if parts is None or not parts.takes_helpers or parts.complete:
                continue
            self._has_some = True
            if parts.is_overdue(now_s):
                if len(entry.ranks) == parts.n_running and (rank := next(ranks, None)) is not None:
                    found.append((rank, entry))
            elif parts.waiting_s > 0:
                hands[entry.index] = len(entry.ranks)
                heap.append((-parts.waiting_s / len(entry.ranks), entry.index, entry))
        heapq.heapify(heap)
        for rank in ranks:
            if not heap or -heap[0][0] < worth_s:
                break
            _, index, entry = heap[0]
            assert entry.parts is not None
            hands[index] += 1
            heapq.heapreplace(heap, (-entry.parts.waiting_s / hands[index], index, entry))
            found.append((rank, entry))
        return found
