"""What a strategy can see and say while it tunes: the space, the goal, the trials so far, its preference."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from disttune.config.goal import Goal
from disttune.space.candidate import Candidate
from disttune.space.space import Space
from disttune.space.summary import ModelSummary
from disttune.strategy.trial import Trial

Measure = Callable[[Candidate], tuple[float, ...]]


@dataclass(frozen=True)
class Sensitivity:
    """What one precision of some ops does to the model, the others being as the strategy says.

    Args:
        ops: that share a quantizer.
        precision: e.g. "W8A8".
        loss: the error of the model's outputs over their variance, or what the job's metric loses.
    """

    ops: tuple[str, ...]
    precision: str
    loss: float


@dataclass
class Tuning:
    """Handed to `stages(tuning)`; the scheduler keeps `trials` up to date.

    Args:
        space: every candidate of the job, countable and indexable.
        summary: the model's ops.
        goal: targets and directions.
        seed: for every random choice.
        batch_size: candidates a sampler asks for at a time, independent of the number of ranks.
        max_trials: the whole budget.
        calibration_samples: sizes that the job lists; candidates are calibrated with the first unless their
            recipes say otherwise.
        weights: of the measures that make the objective ("latency", "size", "float_ops"), each as its
            ratio to the float model's; none for objective "first".
        trials: committed rows so far, in order. Items of a lazy stage are drawn ahead of the commits, more
            of them with more ranks: only what runs between two stages may look at this.
        preferred: number of the trial that the strategy prefers.
        measure: what the strategy wants most of.
        latency_asked: whether the strategy wants latencies even where they are no part of the objective.
        notes: sentences that are told to the user and then removed.
        sensitivity: what the strategy has measured of groups of ops alone, for the result.
    """

    space: Space
    summary: ModelSummary
    goal: Goal
    seed: int = 0
    batch_size: int = 16
    max_trials: int = 100
    calibration_samples: tuple[int, ...] = ()
    weights: Mapping[str, float] = field(default_factory=dict)
    trials: list[Trial] = field(default_factory=list)
    preferred: int | None = None
    measure: Measure | None = None
    latency_asked: bool = False
    notes: list[str] = field(default_factory=list)
    sensitivity: list[Sensitivity] = field(default_factory=list)

    def prefer(self, trial: Trial) -> None:
        """Name the trial that is best with objective "first" (it must meet the goal to count)."""
        self.preferred = trial.number if trial.duplicate_of is None else trial.duplicate_of

    def prefer_most(self, measure: Measure) -> None:
        """With objective "first", let the greatest measure decide among trials that meet the goal.

        Say it before the first stage. A tie goes to the first trial.
        """
        self.measure = measure

    def ask_for_latency(self) -> None:
        """Have the latency of trials that meet the goal measured at the end of each stage.

        Say it before the first stage. With an objective that counts latency it is measured in any case.
        """
        self.latency_asked = True

    def note(self, text: str) -> None:
        """Tell the user something that is no warning, e.g. why a stage is skipped."""
        self.notes.append(text)

    @property
    def n_trials_left(self) -> int:
        """What is left of the budget."""
        return self.max_trials - sum(t.counts for t in self.trials)

    def best_of(self, trials: Iterable[Trial]) -> Trial | None:
        """The best of these by the rule that decides the job's best; a repeat counts as what it repeats."""
        best: Trial | None = None
        for trial in trials:
            if trial.metric is not None and trial.n_quantized and (best is None or self.better(trial, best)):
                best = trial
        return best

    def better(self, trial: Trial, best: Trial) -> bool:
        """Whether a later trial is better than the best so far; both have a metric.

        1. One that meets the goal beats one that does not.
        2. Of two that meet it, the objective decides; with "first" the strategy's measure, else the first.
        3. Of two that miss it, the nearer one; on a tie the later.
        """
        if trial.meets_goal != best.meets_goal:
            return trial.meets_goal
        if not trial.meets_goal:
            return self._shortfall(trial) <= self._shortfall(best)
        if self.weights:
            return self.cost(trial) < self.cost(best)
        return self.measure is not None and self.measure(trial.candidate) > self.measure(best.candidate)

    def cost(self, trial: Trial, unmeasured: float = math.inf) -> float:
        """The objective, less is better; 0 with "first".

        Args:
            trial: with a metric.
            unmeasured: stands for the ratio of a latency that was not measured.
        """
        candidate = trial.candidate
        ratios = {
            "latency": trial.latency.ratio if trial.latency else unmeasured,
            "size": (trial.size_bytes or 0) / max(1, self.summary.size_bytes),
            "float_ops": 1 - len(candidate.quantized_ops) / max(1, len(candidate.ops)),
        }
        return sum(weight * ratios[name] for name, weight in self.weights.items())

    def _shortfall(self, trial: Trial) -> float:
        assert trial.values is not None
        return self.goal.shortfall(trial.values)
