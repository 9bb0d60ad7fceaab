"""Outcomes of an earlier session of a simulated job: what its journal would tell the scheduler.

Pure.
"""

from dataclasses import dataclass, field

from disttune.schedule.events import Settle
from disttune.schedule.latency_window import KIND
from disttune.schedule.outcome import Outcome
from disttune.space.candidate import Candidate
from disttune.strategy.stage import Item


@dataclass
class KnownOutcomes:
    """A recording.

    Args:
        outcomes: of candidates, by digest.
        proposals: (stage, index) to the item that was proposed there, where it may differ.
        probes: (stage, index) to what the probe there gave.
        latencies: by the candidate's digest.
    """

    outcomes: dict[str, Outcome] = field(default_factory=dict)
    proposals: dict[tuple[int, int], Item] = field(default_factory=dict)
    probes: dict[tuple[int, int], Outcome] = field(default_factory=dict)
    latencies: dict[str, Outcome] = field(default_factory=dict)

    def settled(self, command: Settle) -> None:
        """Take in an outcome that is final."""
        item = command.item
        if isinstance(item, Candidate):
            self.outcomes[item.digest] = command.outcome
        elif item.kind == KIND and item.candidate is not None:
            self.latencies[item.candidate.digest] = command.outcome
        else:
            self.probes[command.stage, command.index] = command.outcome

    def proposal(self, stage: int, index: int) -> Item | None:
        return self.proposals.get((stage, index))

    def was_cancelled(self, candidate: Candidate) -> bool:  # noqa: ARG002
        return False

    def outcome(self, candidate: Candidate) -> Outcome | None:
        return self.outcomes.get(candidate.digest)

    def probe(self, stage: int, index: int) -> Outcome | None:
        return self.probes.get((stage, index))

    def latency(self, candidate: Candidate) -> Outcome | None:
        return self.latencies.get(candidate.digest)
