"""The simulated transport: any number of ranks in one process, on a simulated clock.

The real master runs on it unchanged. Deterministic. Time passes only in `receive`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from disttune.runtime.messages import (
    Answer,
    Built,
    CancelTask,
    CombineScores,
    Envelope,
    EvaluateModel,
    PartScored,
    RankLost,
    RunTask,
    SkipModel,
    ToAgent,
    ToMaster,
)
from disttune.schedule.outcome import Outcome
from disttune.schedule.timeline import Timeline
from disttune.strategy.stage import Item


@dataclass(frozen=True, slots=True)
class SimulatedRun:
    """What one run of an item takes and gives.

    Args:
        outcome: its facts.
        build_s: until the model is built.
        evaluation_s: from then on.
        again: the trial process ends badly (crash, time, memory) instead of answering.
    """

    outcome: Outcome
    build_s: float = 0.0
    evaluation_s: float = 1.0
    again: bool = False


class SimulatedTransport:
    """Ranks that answer as told.

    Args:
        n_ranks: of the job; all of them work.
        run: what happens when a rank runs an item; called with the item, the rank, and how often this
            item has been started before.
        lost_at_s: when a rank vanishes, by rank.
        message_s: time a message takes.
        n_blocks: of samples in an evaluation.
    """

    rank = 0

    def __init__(
        self,
        n_ranks: int,
        run: Callable[[Item, int, int], SimulatedRun],
        lost_at_s: Mapping[int, float] | None = None,
        message_s: float = 0.0,
        n_blocks: int = 1,
    ):
        self.size = n_ranks
        self.survives_loss = False
        self.n_messages = 0
        self._run = run
        self._message_s = message_s
        self._n_blocks = n_blocks
        self._clock_s = 0.0
        self._events = Timeline[Envelope]()
        self._current: dict[int, tuple[int, SimulatedRun]] = {}  # by rank: assignment and what becomes of it
        self._n_started: dict[int, int] = {}  # by task
        self._lost: set[int] = set()
        for rank, at_s in (lost_at_s or {}).items():
            self._events.put(at_s, Envelope(rank, RankLost("simulated loss")))

    def send(self, to: int, message: ToAgent | ToMaster) -> None:
        self.n_messages += 1
        if to in self._lost:
            return
        match message:
            case RunTask():
                n_before = self._n_started.get(message.task, 0)
                self._n_started[message.task] = n_before + 1
                run = self._run(message.item, to, n_before)
                self._current[to] = (message.assignment, run)
                outcome = run.outcome
                if outcome.model_digest is None or run.again:
                    self._answer(to, run.build_s + run.evaluation_s)
                else:
                    built = Built(
                        message.assignment,
                        outcome.model_digest,
                        outcome.size_bytes or 0,
                        outcome.n_quantized or 0,
                    )
                    self._events.put(self._later(run.build_s), Envelope(to, built))
            case EvaluateModel(blocks=None):
                self._answer(to, self._current[to][1].evaluation_s)
            case EvaluateModel():
                self._score(to, message)
            case CombineScores():
                assignment, run = self._current[to]
                outcome = replace(run.outcome, seconds=0.0, evaluation_s=0.0)  # its parts took them
                self._events.put(self._later(0.0), Envelope(to, Answer(assignment, outcome)))
            case SkipModel() | CancelTask():
                self._current.pop(to, None)
            case _:
                pass

    def receive(self, timeout_s: float, descriptors: Sequence[int] = ()) -> list[Envelope]:  # noqa: ARG002
        until_s = self._clock_s + timeout_s
        while self._events and self._events.next_s <= until_s:
            self._clock_s, envelope = self._events.take()
            if self._arrives(envelope):
                self.n_messages += 1
                return [envelope]
        self._clock_s = until_s
        return []

    def now_s(self) -> float:
        return self._clock_s

    def close(self) -> None:
        self._events.clear()

    def _answer(self, rank: int, after_s: float) -> None:
        assignment, run = self._current[rank]
        self._events.put(self._later(after_s), Envelope(rank, Answer(assignment, run.outcome, run.again)))

    def _score(self, rank: int, message: EvaluateModel) -> None:
        """A part of an evaluation: its share of the time, and scores that nobody looks at."""
        assert message.blocks is not None
        assignment, run = self._current[rank]
        seconds = run.evaluation_s * len(message.blocks) / self._n_blocks
        part = PartScored(
            assignment, message.blocks, tuple(message.blocks), seconds, opening_s=0.0, seconds=seconds
        )
        self._events.put(self._later(seconds), Envelope(rank, part))

    def _later(self, seconds: float) -> float:
        return self._clock_s + seconds + 2 * self._message_s

    def _arrives(self, envelope: Envelope) -> bool:
        rank, message = envelope.source, envelope.message
        if rank in self._lost:
            return False
        if isinstance(message, RankLost):
            self._lost.add(rank)
        if isinstance(message, Built | Answer | PartScored):
            return self._current.get(rank, (None,))[0] == message.assignment
        return True
