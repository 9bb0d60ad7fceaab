"""How long candidates are expected to take, learnt from those of the same kind; for the order of work alone.

Pure. Seconds come in with outcomes. They decide what starts first where every result of a stage is needed,
never what is proposed, counted or best.

A kind is the number of ops of each type that a candidate leaves in float, its recipes, and the algorithms
that round its weights; its work is the multiply-adds of the ops in float. Within a kind seconds are a line
over work once there are some to tell, before that their mean. A kind that nothing is known of goes first, so
that it becomes known, its greatest work first.
"""

import math
from dataclasses import dataclass

from disttune.config.weight_methods import WEIGHT_METHODS
from disttune.space.candidate import Candidate
from disttune.space.summary import ModelSummary
from disttune.strategy.stage import Probe

Kind = tuple[tuple[str, int], ...]
MIN_FOR_A_LINE = 4  # durations of a kind


@dataclass
class _Line:
    """Sums of a kind's work and seconds."""

    n: int = 0
    work: float = 0.0
    seconds: float = 0.0
    work_squared: float = 0.0
    both: float = 0.0
    _fitted: tuple[float, float, float] | None = None  # seconds at a work, that work, seconds per work

    def add(self, work: float, seconds: float) -> None:
        self.n += 1
        self.work += work
        self.seconds += seconds
        self.work_squared += work * work
        self.both += work * seconds
        self._fitted = None

    def at(self, work: float) -> float:
        mean_s, mean_work, slope = self._fitted or self._fit()
        return mean_s + slope * (work - mean_work)

    def _fit(self) -> tuple[float, float, float]:
        """Kept until more is learnt: a long queue is ranked by it."""
        spread = self.work_squared - self.work**2 / self.n
        has_slope = self.n >= MIN_FOR_A_LINE and spread > 1e-9 * self.work_squared
        slope = (self.both - self.work * self.seconds / self.n) / spread if has_slope else 0.0
        self._fitted = (self.seconds / self.n, self.work / self.n, slope)
        return self._fitted


class Durations:
    """Learns from every candidate that was measured.

    Args:
        summary: types and multiply-adds of the model's ops.
    """

    def __init__(self, summary: ModelSummary):
        self._types = {op.name: op.op_type for op in summary.ops}
        total = sum(op.n_macs for op in summary.ops)
        self._work = {op.name: op.n_macs / total if total else 0.0 for op in summary.ops}
        self._lines: dict[Kind, _Line] = {}
        self._unlearnt: dict[str, tuple[_Line, float]] = {}  # kind and work of those asked about, by digest
        self.n_learnt = 0
        self._seconds = 0.0

    def learn(self, candidate: Candidate, seconds: float) -> None:
        """Take in how long one took."""
        line, work = self._features(candidate)
        del self._unlearnt[candidate.digest]
        line.add(work, seconds)
        self.n_learnt += 1
        self._seconds += seconds

    def rank(self, candidate: Candidate) -> tuple[float, float]:
        """The least goes first: longest expected, then most work."""
        line, work = self._features(candidate)
        return (-line.at(work) if line.n else -math.inf, -work)

    @property
    def mean_s(self) -> float | None:
        """Of all candidates; None before any."""
        return self._seconds / self.n_learnt if self.n_learnt else None

    def expected_s(self, item: Candidate | Probe) -> float | None:
        """What an item should take: as its kind does, else the mean of all; None before any."""
        if isinstance(item, Candidate):
            line, work = self._features(item)
            if line.n:
                return line.at(work)
        return self.mean_s

    def _features(self, candidate: Candidate) -> tuple[_Line, float]:
        """Kept until it is learnt from: until then it is asked about again and again."""
        features = self._unlearnt.get(candidate.digest)
        if features is None:
            features = self._unlearnt[candidate.digest] = self._look_at(candidate)
        return features

    def _look_at(self, candidate: Candidate) -> tuple[_Line, float]:
        if candidate.default.quantized:
            in_float = [op for op, config in candidate.exceptions if not config.quantized]
        else:
            in_float = [op for op in candidate.ops if not candidate.config_of(op).quantized]
        configs = (candidate.default, *(config for _, config in candidate.exceptions))
        methods = {c.weight.method for c in configs if c.weight} & WEIGHT_METHODS.keys()
        parts: dict[str, int] = {}
        for op in in_float:
            part = self._types.get(op, "")
            parts[part] = parts.get(part, 0) + 1
        parts |= dict.fromkeys([*methods, *(f"{name}={value}" for name, value in candidate.recipes)], 1)
        kind = tuple(sorted(parts.items()))
        return self._lines.setdefault(kind, _Line()), sum(self._work.get(op, 0.0) for op in in_float)
