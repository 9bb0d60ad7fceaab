"""The trial table and the best so far.

Pure. Rows come in trial order. Source of the rules: goal, best and counting of the strategy definition:
a repeat counts nothing and is never best; a trial without a metric counts but is never best.
"""

from collections.abc import Mapping
from dataclasses import replace

from disttune.config.errors import InputError
from disttune.config.goal import Goal
from disttune.config.nearest import unknown_name
from disttune.schedule.outcome import Outcome
from disttune.space.candidate import Candidate
from disttune.strategy.trial import Trial
from disttune.strategy.tuning import Tuning

OBJECTIVES = ("size", "float_ops")


class History:
    """Judges outcomes, commits them as rows, knows the best.

    Args:
        tuning: its `trials` are the table; its `preferred` names the strategy's choice.
        objective: what decides among trials that meet the goal: "first" in trial order (or the
            strategy's choice), "size" (bytes), "float_ops" (quantizable ops left in float), or weights
            of both; each counts as its ratio to the float model's.
    Raises:
        InputError: the objective is unknown.
    """

    def __init__(self, tuning: Tuning, objective: str | Mapping[str, float] = "first"):
        self.tuning = tuning
        tuning.weights = objective_weights(objective)
        self.n_counted = 0
        self.n_meeting_goal = 0
        self.n_since_best = 0
        self.n_repeats_in_a_row = 0
        self.next_number = 0
        self._by_number: dict[int, Trial] = {}
        self._first_by_model: dict[str, int] = {}
        self._best: Trial | None = None

    @property
    def goal(self) -> Goal:
        return self.tuning.goal

    @property
    def trials(self) -> list[Trial]:
        return self.tuning.trials

    @property
    def best(self) -> Trial | None:
        preferred = self.tuning.preferred
        if not self.tuning.weights and preferred is not None:
            trial = self._by_number[preferred]
            if trial.eligible and trial.meets_goal:
                return trial
        return self._best

    def judge(self, number: int, stage: str, candidate: Candidate, outcome: Outcome) -> Trial:
        """The row that these facts make, before it is known to be a duplicate."""
        values = outcome.values if outcome.status == "ok" else None
        quantizes = bool(outcome.n_quantized)
        return Trial(
            number=number,
            stage=stage,
            candidate=candidate,
            status=outcome.status,
            values=values,
            metric=self.goal.metric(values) if values is not None else None,
            meets_goal=values is not None and quantizes and self.goal.meets(values),
            model_digest=outcome.model_digest,
            size_bytes=outcome.size_bytes,
            n_quantized=outcome.n_quantized,
            seconds=outcome.seconds,
            rank=outcome.rank,
            reason=outcome.reason or ("" if quantizes or values is None else "no node is quantized"),
        )

    def repeat(self, number: int, stage: str, candidate: Candidate, first: int) -> Trial:
        """The row of a repeat: it refers to the first one and takes its status and metric."""
        known = self._by_number[first]
        first = first if known.duplicate_of is None else known.duplicate_of
        reason = f"same model as trial {first}"
        return replace(
            known,
            number=number,
            stage=stage,
            candidate=candidate,
            duplicate_of=first,
            seconds=0.0,
            reason=reason,
        )

    def cancelled(self, number: int, stage: str, candidate: Candidate) -> Trial:
        """The row of a trial that the job's timeout ended."""
        return Trial(number, stage, candidate, "timeout", reason="job timeout", cancelled=True)

    def row(self, number: int) -> Trial:
        return self._by_number[number]

    def has(self, number: int) -> bool:
        return number in self._by_number

    def commit(self, row: Trial) -> Trial:
        """Append a judged row; one whose model is known takes the first one's status and metric."""
        first = self._first_by_model.get(row.model_digest or "")
        if row.duplicate_of is None and first is not None:
            row = self.repeat(row.number, row.stage, row.candidate, first)
        self.trials.append(row)
        self._by_number[row.number] = row
        self.next_number = row.number + 1
        if row.cancelled:
            return row
        if row.duplicate_of is not None:
            self.n_repeats_in_a_row += 1
            return row
        self.n_repeats_in_a_row = 0
        self.n_counted += 1
        self.n_since_best += 1
        if row.model_digest is not None:
            self._first_by_model[row.model_digest] = row.number
        if row.eligible:
            self.n_meeting_goal += row.meets_goal
            if self._best is None or self.tuning.better(row, self._best):
                self._best = row
                self.n_since_best = 0
        return row


def objective_weights(objective: str | Mapping[str, float]) -> dict[str, float]:
    """Weight of each measure; none for "first".

    Raises:
        InputError: a measure is unknown.
    """
    weights = {objective: 1.0} if isinstance(objective, str) else dict(objective)
    if weights == {"first": 1.0}:
        return {}
    for name in weights:
        if name not in OBJECTIVES:
            raise InputError("[tuning] objective: " + unknown_name("objective", name, ("first", *OBJECTIVES)))
    return weights
