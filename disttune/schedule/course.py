"""The course of a job: stages opened and ended, their items drawn and numbered, results committed in order.

Pure. Every decision about the table, the best and the stop is taken here, at a commit; which worker has
measured what, and when, makes no difference to it.
"""

from collections.abc import Callable
from typing import Protocol

from disttune.schedule.dispatch import Dispatch
from disttune.schedule.durations import Durations
from disttune.schedule.early_stop import StopRule, cut_short, stop_rule
from disttune.schedule.events import Commit, Finish, Improve, Note, Notice, OpenStage, Propose
from disttune.schedule.exit_policy import ExitPolicy
from disttune.schedule.history import History
from disttune.schedule.latency_window import latency_probes, measured_latency, told
from disttune.schedule.outcome import Outcome
from disttune.schedule.stage_run import Ending, Entry, StageRun
from disttune.schedule.strategy_calls import StrategyCalls
from disttune.space.candidate import Candidate
from disttune.strategy.stage import Item, Probe, StageResult
from disttune.strategy.strategy import Strategy
from disttune.strategy.trial import Trial

LOOK_AHEAD = 2  # items drawn ahead of the first uncommitted one, per worker
INTERRUPTIONS = ("signal", "batch_end")  # with work left
MAX_EMPTY_STAGES = 1000  # stages in a row without anything new to measure


class Recording(Protocol):
    """What an earlier session of the job left: facts to be used instead of running anything again."""

    def proposal(self, stage: int, index: int) -> Item | None:
        """The item that was proposed at this place."""

    def outcome(self, candidate: Candidate) -> Outcome | None:
        """What became of this candidate."""

    def was_cancelled(self, candidate: Candidate) -> bool:
        """Whether the job's timeout once ended it."""

    def probe(self, stage: int, index: int) -> Outcome | None:
        """What the probe at this place gave."""

    def latency(self, candidate: Candidate) -> Outcome | None:
        """What measuring the latency of this candidate gave."""


class Course:
    """From the strategy's first stage to the end of the search.

    Args:
        strategy: yields stages.
        history: table, goal and objective; its `tuning` is handed to the strategy.
        policy: budgets and stop conditions.
        recording: results of earlier sessions; None for a new job.
        durations: learns what candidates take.
        dispatch: the workers, whose tasks it may cancel.
        tell: takes commands, in order.
    """

    def __init__(
        self,
        strategy: Strategy,
        history: History,
        policy: ExitPolicy,
        recording: Recording | None,
        durations: Durations,
        dispatch: Dispatch,
        tell: Callable[..., None],
    ):
        self.history = history
        self.policy = policy
        self.recording = recording
        self.finished: Finish | None = None
        self.n_probes = 0
        self._strategy = StrategyCalls(strategy, history.tuning)
        self._durations = durations
        self._dispatch = dispatch
        self._tell = tell
        self._run: StageRun | None = None
        self._n_stages = 0
        self._n_empty_stages = 0
        self._first_by_digest: dict[str, int] = {}
        self._known_models: dict[str, Outcome] = {}
        self._next_trial = 0
        self._next_probe = 0
        self._differs_told = False

    @property
    def stage(self) -> StageRun:
        """The running stage; there is one from the first step to the end."""
        assert self._run is not None
        return self._run

    @property
    def draws_no_more(self) -> bool:
        """Whether what waits is the rest of the stage."""
        return self.stage.exhausted or not self._has_budget(self.stage)

    @property
    def needs_metrics(self) -> bool:
        """Whether the running stage needs every metric."""
        return self.stage.stage.needs == "metric"

    def stop_rule(self) -> StopRule | None:
        """When a trial of the running stage may end early, as far as it is known now; None: never."""
        if self.needs_metrics or not self.policy.early_stop:
            return None
        return stop_rule(self.history, self.policy.early_stop_risk)

    def known(self, model_digest: str) -> Outcome | None:
        """What was measured of a model."""
        return self._known_models.get(model_digest)

    def step(self, is_draining: bool) -> bool:
        """Commit one item, or draw one, or go to the next stage; False when nothing is to be done.

        Args:
            is_draining: nothing more is to be started.
        """
        if self._run is None:
            self._next_stage(None)
        elif (head := self._run.head()) is not None:
            if self._is_provisional(head):
                head.packed = True
                self._run.again(head, "measured again")
            elif self._lacks_metric(head):
                head.to_its_end = True
                self._run.again(head, "measured again")
            else:
                self._commit(self._run.commit_head())
        elif self._run.ending is not None and not self._run.open:
            self._end_window(self._run, self._run.ending)
        elif self._run.ending is not None or is_draining:
            return False
        elif self._run.complete:
            self._end(Ending("done"))
        elif not self._run.exhausted and self._may_draw(self._run):
            self._draw(self._run)
        else:
            return False
        return True

    def measured(self, entry: Entry, outcome: Outcome) -> None:
        """Take in what became of an entry."""
        entry.outcome = outcome
        if outcome.model_digest is not None and isinstance(entry.item, Candidate):
            known = self._known_models.setdefault(outcome.model_digest, outcome)
            if (outcome.packed and not known.packed) or known.status == "pruned":
                self._known_models[outcome.model_digest] = outcome
            if outcome.status == "ok" and outcome.seconds > 0:
                self._durations.learn(entry.item, outcome.seconds)

    def stop_at_timeout(self) -> None:
        """End what runs (a row that uses no trial); commit the finished trials behind it in order.

        A job that had ended in this way makes the same rows when it is run again without more time.
        """
        run = self._run
        assert run is not None
        if run.ending is None:
            self._draw_recorded(run)
        for entry in run.open:
            is_cut = bool(entry.ranks) or self._was_cut(entry)
            if is_cut:
                self._tell(*self._dispatch.cancel(entry))
                entry.step("cancelled")
            if isinstance(entry.item, Probe):
                continue
            if is_cut:
                self._commit_row(self.history.cancelled(entry.task, run.stage.name, entry.item))
            elif entry.state == "measured" and (entry.repeat_of is None or self.history.has(entry.repeat_of)):
                entry.step("committed")
                self._commit_row(self._row(entry, entry.item))
        self.finish("timeout")

    def finish(self, stop_reason: str) -> None:
        """End the search."""
        self._tell(*self._dispatch.cancel_all())
        best = self.history.best
        met = best is not None and best.meets_goal
        if stop_reason in INTERRUPTIONS:
            self.finished = Finish("interrupted", stop_reason)
        else:
            self.finished = Finish("goal_met" if met else "goal_not_met", stop_reason)
        self._tell(self.finished)

    # Commits

    def _is_provisional(self, entry: Entry) -> bool:
        """Whether a trial that was measured without packed weights may be the best: it needs them first."""
        outcome = entry.outcome
        if outcome is None or outcome.packed or outcome.status != "ok" or not entry.costs_a_trial:
            return False
        return self.history.may_be_best(self._row(entry, entry.item))  # type: ignore[arg-type]

    def _lacks_metric(self, entry: Entry) -> bool:
        """Whether a trial that was stopped early has to be measured to its end after all."""
        outcome = entry.outcome
        if outcome is None or outcome.status != "pruned" or entry.to_its_end:
            return False
        rule = self.stop_rule()
        return rule is None or rule.first_hopeless(outcome.bounds) is None

    def _commit(self, entry: Entry) -> None:
        assert self._run is not None
        if isinstance(entry.item, Probe):
            self._commit_probe(self._run, entry.item, entry.outcome)
            return
        row = self._commit_row(self._row(entry, entry.item))
        self._run.rows.append(row)
        reason = self.policy.after_commit(row, self.history, self._run.stage.goal_stops)
        if reason is not None:
            self._end(Ending(reason, stops=True))
        elif self.history.n_repeats_in_a_row >= self.policy.max_repeats:
            self._end(Ending("space"))

    def _commit_probe(self, run: StageRun, probe: Probe, outcome: Outcome | None) -> None:
        assert outcome is not None
        self.n_probes += 1
        if run.ending is None:
            run.probe_values.append(outcome.value if outcome.status == "ok" else None)
            return
        before = self.history.best
        trial = self.history.take_latency(probe.arguments["trial"], measured_latency(outcome))
        self._tell(Note(told(trial, outcome)))
        if before is None or self.history.best is None or before.number != self.history.best.number:
            self._tell_if_better(before)

    def _row(self, entry: Entry, candidate: Candidate) -> Trial:
        assert self._run is not None
        if entry.repeat_of is not None:
            return self.history.repeat(entry.task, self._run.stage.name, candidate, entry.repeat_of)
        assert entry.outcome is not None
        outcome = cut_short(entry.outcome, self.stop_rule())
        return self.history.judge(entry.task, self._run.stage.name, candidate, outcome)

    def _commit_row(self, row: Trial) -> Trial:
        before = self.history.best
        row = self.history.commit(row)
        self._tell(Commit(row, self.history.best))
        self._tell_if_better(before)
        return row

    def _tell_if_better(self, before: Trial | None) -> None:
        best = self.history.best
        if best is not None and best is not before:
            self._tell(Improve(best))

    # Stages

    def _end(self, ending: Ending) -> None:
        """End the stage, once the latencies that are wanted of its trials are measured."""
        run = self._run
        assert run is not None
        for entry in run.close(ending):  # drawn ahead of a stage that ended early
            self._drop(entry)
        self.history.n_repeats_in_a_row = 0
        self._next_trial = self.history.next_number
        asked = self.history.tuning.latency_asked and not ending.stops
        if self.history.latency_decides or asked:
            for probe in latency_probes(self.history.unmeasured):
                self._add(run, self._latency_entry(run, probe))

    def _end_window(self, run: StageRun, ending: Ending) -> None:
        """Nothing is left to measure: go on."""
        reason = ending.reason if ending.stops else self.policy.after_latencies(self.history)
        if reason is not None:
            self.finish(reason)
        else:
            self._end_stage(run)

    def _end_stage(self, run: StageRun) -> None:
        run.rows = [self.history.row(row.number) for row in run.rows]  # some have a latency now
        result = run.result(self.history.goal)
        is_empty = all(t.duplicate_of is not None for t in run.rows) and not run.probe_values
        self._n_empty_stages = self._n_empty_stages + 1 if is_empty else 0
        if self._n_empty_stages >= MAX_EMPTY_STAGES:
            self.finish("space")
        else:
            self._next_stage(result)

    def _drop(self, entry: Entry) -> None:
        self._tell(*self._dispatch.cancel(entry))
        if isinstance(entry.item, Candidate) and self._first_by_digest.get(entry.item.digest) == entry.task:
            del self._first_by_digest[entry.item.digest]

    def _next_stage(self, result: StageResult | None) -> None:
        before = self.history.best
        stage = self._strategy.next_stage(result)
        self._tell(*self._strategy.take_notes())
        self._tell_if_better(before)  # it may have named another trial
        if stage is None:
            self.finish("space" if self._space_is_used_up() else "strategy")
            return
        durations = self._durations if self.policy.only_counts else None
        self._run = StageRun(self._n_stages, stage, durations)
        self._n_stages += 1
        self._tell(OpenStage(self._run.index, stage))

    def _space_is_used_up(self) -> bool:
        """Whether every candidate of the space was tried, and nothing else."""
        space = self.history.tuning.space.op_wise()
        if len(self._first_by_digest) < space.size:
            return False
        tried = {t.candidate.digest: t.candidate for t in self.history.trials}
        return len(tried) == space.size and all(candidate in space for candidate in tried.values())

    # Drawing items

    def _may_draw(self, run: StageRun) -> bool:
        if not self._has_budget(run):
            return False
        if run.all_needed(goal_can_stop=self.policy.stop_at == "goal"):
            return True
        return len(run.open) < max(1, LOOK_AHEAD * self._dispatch.n_workers)

    def _has_budget(self, run: StageRun) -> bool:
        return run.n_costing + self.history.n_counted < self.policy.max_trials

    def _draw(self, run: StageRun) -> None:
        item = self._strategy.next_item(run)
        self._tell(*self._strategy.take_notes())
        if item is None:
            return
        item = self._as_recorded(run, item)
        self._add(
            run, self._probe_entry(run, item) if isinstance(item, Probe) else self._trial_entry(run, item)
        )

    def _add(self, run: StageRun, entry: Entry) -> None:
        self._tell(Propose(run.index, entry.index, entry.task, entry.item))
        run.add(entry)
        if entry.state == "waiting":
            run.queue(entry)

    def _as_recorded(self, run: StageRun, item: Item) -> Item:
        recorded = self.recording.proposal(run.index, run.n_drawn) if self.recording else None
        if recorded is None or recorded == item:
            return item
        if not self._differs_told:
            self._differs_told = True
            text = "the strategy would now propose other items than the journal holds; the journal's are used"
            self._tell(Notice(text))
        return recorded

    def _trial_entry(self, run: StageRun, candidate: Candidate) -> Entry:
        entry = Entry(run.n_drawn, self._next_trial, candidate)
        self._next_trial += 1
        first = self._first_by_digest.setdefault(candidate.digest, entry.task)
        known = self.recording.outcome(candidate) if self.recording else None
        if known is not None and known.status == "pruned" and self.needs_metrics:
            known = None
        if first != entry.task and not (self.needs_metrics and self._was_pruned(first)):
            entry.repeat_of = first
            entry.step("known")
        elif known is not None:
            entry.step("known")
            self.measured(entry, known)
        return entry

    def _was_pruned(self, number: int) -> bool:
        return self.history.has(number) and self.history.row(number).status == "pruned"

    def _probe_entry(self, run: StageRun, probe: Probe) -> Entry:
        return self._measured_if_known(
            Entry(run.n_drawn, self._next_probe - 1, probe),
            self.recording.probe(run.index, run.n_drawn) if self.recording else None,
        )

    def _latency_entry(self, run: StageRun, probe: Probe) -> Entry:
        """It runs with nothing else on its node."""
        assert probe.candidate is not None
        return self._measured_if_known(
            Entry(run.n_drawn, self._next_probe - 1, probe, alone=True),
            self.recording.latency(probe.candidate) if self.recording else None,
        )

    def _measured_if_known(self, entry: Entry, known: Outcome | None) -> Entry:
        """A probe's entry, with what an earlier session found, or without when no more may be measured."""
        self._next_probe = entry.task
        if (
            known is None
            and self.policy.max_probes is not None
            and -self._next_probe > self.policy.max_probes
        ):
            known = Outcome("failed", reason="max_probes reached")
        if known is not None:
            entry.step("known")
            self.measured(entry, known)
        return entry

    # A timeout

    def _draw_recorded(self, run: StageRun) -> None:
        """Draw what an earlier session had drawn: it may have measured more than workers here ask for."""
        while (
            self.recording
            and not run.exhausted
            and self._has_budget(run)
            and self.recording.proposal(run.index, run.n_drawn) is not None
        ):
            self._draw(run)

    def _was_cut(self, entry: Entry) -> bool:
        """Whether an earlier session's timeout ended a trial that has not been run again."""
        return (
            self.recording is not None
            and entry.state == "waiting"
            and isinstance(entry.item, Candidate)
            and self.recording.was_cancelled(entry.item)
        )
