"""The trial table and the best so far.

Pure. Rows come in trial order. Source of the rules: goal, best and counting of the strategy definition:
a repeat counts nothing and is never best; a trial without a metric counts but is never best.
"""

from collections.abc import Mapping
from dataclasses import replace

from disttune.config.goal import Goal
from disttune.config.objective import objective_weights
from disttune.schedule.outcome import Outcome
from disttune.space.candidate import Candidate
from disttune.strategy.trial import Latency, Trial
from disttune.strategy.tuning import Tuning


class History:
    """Judges outcomes, commits them as rows, knows the best.

    Args:
        tuning: its `trials` are the table; its `preferred` names the strategy's choice.
        objective: what decides among trials that meet the goal: "first" in trial order (or the
            strategy's choice), "latency" (of one run), "size" (bytes), "float_ops" (quantizable ops left
            in float), or weights of them; each counts as its ratio to the float model's.
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
        self._positions: dict[int, list[int]] = {}  # number -> places of its row and of its repeats
        self._unmeasured: dict[int, None] = {}  # meeting the goal, their latency never asked for; ordered

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

    @property
    def latency_decides(self) -> bool:
        """Whether the best depends on latencies."""
        return "latency" in self.tuning.weights

    @property
    def unmeasured(self) -> list[Trial]:
        """Trials that meet the goal and whose latency has not been asked for, in order."""
        return [self._by_number[number] for number in self._unmeasured]

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
            if row.metric is not None and self._by_number[first].status == "pruned":
                row = replace(row, duplicate_of=first)
            else:
                row = self.repeat(row.number, row.stage, row.candidate, first)
        places = self._positions.setdefault(row.number if row.duplicate_of is None else row.duplicate_of, [])
        places.append(len(self.trials))
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
            if row.meets_goal:
                self._unmeasured[row.number] = None
            if self._best is None or self.tuning.better(row, self._best):
                self._best = row
                self.n_since_best = 0
        return row

    def may_be_best(self, row: Trial) -> bool:
        """Whether a judged row, once committed, is the best or can become so later."""
        if not row.eligible or (row.model_digest or "") in self._first_by_model:
            return False
        return row.meets_goal or self._best is None or self.tuning.better(row, self._best)

    def take_latency(self, number: int, latency: Latency | None) -> Trial:
        """Add to a trial and its repeats what was measured, None for nothing; it may be the best now."""
        del self._unmeasured[number]
        if latency is not None:
            for place in self._positions[number]:
                row = replace(self.trials[place], latency=latency)
                self.trials[place] = self._by_number[row.number] = row
            self._compare_again(self._by_number[number])
        return self._by_number[number]

    def _compare_again(self, row: Trial) -> None:
        best = self._best
        assert best is not None
        if row.number == best.number:
            self._best = row
        elif self.tuning.better(row, best):
            self._best = row
            behind = self.trials[self._positions[row.number][0] + 1 :]
            self.n_since_best = sum(trial.counts for trial in behind)
