"""The scheduler: events in, commands out. It decides what runs where, what counts, and when to stop.

Pure: no clock, files, MPI or threads; time comes in with events. It knows nothing of what a candidate
means. The trial table, the best and the stop are the same for any number of workers and any order of
arrival, because results are committed in the order of proposal and every decision is taken at a commit.
"""

from dataclasses import replace
from typing import Protocol

from disttune.schedule.dispatch import Dispatch
from disttune.schedule.durations import Durations
from disttune.schedule.events import (
    Command,
    Commit,
    Evaluate,
    Event,
    Finish,
    Improve,
    Interrupt,
    ModelBuilt,
    Note,
    Notice,
    OpenStage,
    Propose,
    Settle,
    Skip,
    TaskDone,
    TaskFailed,
    Tick,
    WorkerJoined,
    WorkerLost,
)
from disttune.schedule.exit_policy import ExitPolicy
from disttune.schedule.history import History
from disttune.schedule.latency_window import latency_probes, measured_latency, told
from disttune.schedule.outcome import Outcome
from disttune.schedule.stage_run import Ending, Entry, StageRun
from disttune.schedule.stragglers import Stragglers
from disttune.schedule.strategy_calls import StrategyCalls
from disttune.space.candidate import Candidate
from disttune.strategy.stage import Item, Probe, StageResult
from disttune.strategy.strategy import Strategy
from disttune.strategy.trial import Trial

MAX_CRASHES = 2  # trial processes that one candidate may kill
MAX_LOSSES = 3  # ranks that may vanish under one candidate: a lost node is rarely the candidate's fault
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


class Scheduler:
    """The master's decisions.

    Args:
        strategy: yields stages.
        history: table, goal and objective; its `tuning` is handed to the strategy.
        policy: budgets and stop conditions.
        recording: results of earlier sessions; None for a new job.
    """

    def __init__(
        self, strategy: Strategy, history: History, policy: ExitPolicy, recording: Recording | None = None
    ):
        self.history = history
        self.policy = policy
        self.recording = recording
        self.finished: Finish | None = None
        self.n_probes = 0
        self._strategy = StrategyCalls(strategy, history.tuning)
        self._run: StageRun | None = None
        self._n_stages = 0
        self._n_empty_stages = 0
        self._dispatch = Dispatch()
        self._durations = Durations(history.tuning.summary)
        self._stragglers = Stragglers(self._durations)
        self._first_by_digest: dict[str, int] = {}
        self._known_models: dict[str, Outcome] = {}
        self._next_trial = 0
        self._next_probe = 0
        self._drain_until_s: float | None = None
        self._drain_reason = "signal"
        self._differs_told = False
        self._commands: list[Command] = []

    def handle(self, event: Event) -> list[Command]:
        """Take in one event; return what must be done now, in order.

        Raises:
            UserCodeError: the strategy raised, or yielded something that is no stage.
            InternalError: the event contradicts what was commanded.
        """
        self._commands = []
        if self.finished:
            return []
        match event:
            case WorkerJoined():
                self._dispatch.join(event.rank, event.node)
            case ModelBuilt():
                self._built(event)
            case TaskDone():
                self._done(event)
            case TaskFailed():
                self._failed(event)
            case WorkerLost():
                self._lost(event)
            case Interrupt():
                deadline_s = event.now_s + event.grace_s
                self._drain_until_s = min(deadline_s, self._drain_until_s or deadline_s)
                self._drain_reason = "signal"
            case Tick():
                pass  # only the time it brings matters, below
        self._advance(event.now_s)
        return self._commands

    def check_invariants(self) -> None:
        """Assert what must hold between events; tests call it after each."""
        numbers = [t.number for t in self.history.trials]
        assert numbers == sorted(set(numbers)), "each trial once, in order"
        assert self.history.n_counted <= self.policy.max_trials
        self._dispatch.check_invariants()
        if self._run and not self.finished:
            assert not self._run.head(), "what can be committed is committed"
            running = [e for e in self._run.open if e.state == "running"]
            n_twice = sum(e.second is not None for e in running)
            assert len(running) + n_twice == self._dispatch.n_running
            assert len({e.task for e in self._run.open}) == len(self._run.open)

    # Events

    def _built(self, event: ModelBuilt) -> None:
        entry = self._dispatch.answered(event.rank, event.assignment)
        if entry is None:
            return
        known = self._known_models.get(event.model_digest)
        if known is None or (entry.packed and not known.packed):
            self._commands.append(Evaluate(event.rank, event.assignment, entry.packed))
            return
        self._commands.append(Skip(event.rank, event.assignment))
        self._dispatch.free(event.rank)
        self._settle(entry, replace(known, seconds=0.0, rank=event.rank))

    def _done(self, event: TaskDone) -> None:
        entry = self._dispatch.answered(event.rank, event.assignment)
        if entry is None:
            if difference := self._stragglers.late_answer(event):
                self._commands.append(Notice(difference))
            return
        self._dispatch.free(event.rank)
        if isinstance(entry.item, Candidate) and event.outcome.status == "ok":
            self._stragglers.learn(entry.item, event.outcome.seconds, event.rank)
        self._settle(entry, event.outcome)

    def _failed(self, event: TaskFailed) -> None:
        entry = self._dispatch.answered(event.rank, event.assignment)
        if entry is None:
            return
        was_alone = entry.alone or self._dispatch.is_alone(event.rank)
        self._dispatch.free(event.rank)
        if event.outcome.status == "crashed":
            entry.crashes += 1
            entry.avoid = event.rank
            stands = entry.crashes >= MAX_CRASHES
        elif self._dispatch.runs(entry):
            return  # its other run decides
        else:
            entry.alone = True
            stands = was_alone
        if stands:
            self._settle(entry, event.outcome)
        elif not self._dispatch.runs(entry):
            self._again(entry, "again")

    def _lost(self, event: WorkerLost) -> None:
        entry = self._dispatch.lose(event.rank)
        if entry is None:
            return
        entry.losses += 1
        if self._dispatch.runs(entry):
            return  # elsewhere, too
        if entry.losses >= MAX_LOSSES:
            reason = f"{MAX_LOSSES} ranks were lost while they ran it"
            self._settle(entry, Outcome("crashed", rank=event.rank, reason=reason))
        else:
            self._again(entry, "lost")

    def _again(self, entry: Entry, event: str) -> None:
        assert self._run is not None
        entry.step(event)
        self._run.queue(entry)

    def _settle(self, entry: Entry, outcome: Outcome) -> None:
        assert self._run is not None
        for cancel in list(self._dispatch.cancel(entry)):  # its other run
            self._commands.append(cancel)
            self._stragglers.beaten(cancel, entry.task, outcome)
        entry.step("done")
        before = entry.outcome
        if before is not None and before.values != outcome.values:
            self._commands.append(
                Note(
                    f"trial {entry.task}: with packed weights, as onnxruntime runs a model by default, "
                    f"{outcome.values} instead of {before.values}; that counts"
                )
            )
        self._measured(entry, outcome)
        self._commands.append(Settle(self._run.index, entry.index, entry.task, entry.item, outcome))

    def _measured(self, entry: Entry, outcome: Outcome) -> None:
        entry.outcome = outcome
        if outcome.model_digest is not None and isinstance(entry.item, Candidate):
            known = self._known_models.setdefault(outcome.model_digest, outcome)
            if outcome.packed and not known.packed:
                self._known_models[outcome.model_digest] = outcome
            if outcome.status == "ok" and outcome.seconds > 0:
                self._durations.learn(entry.item, outcome.seconds)

    # Progress

    def _advance(self, now_s: float) -> None:
        while not self.finished and self._step():
            pass
        if self.finished:
            return
        if self.policy.timed_out(now_s):
            self._stop_at_timeout()
            return
        self._look_at_batch_end(now_s)
        if self._drain_until_s is None:
            assert self._run is not None
            if self._run.exhausted or not self._has_budget(self._run):
                self._run.drawn_to_its_end()
            self._commands += self._dispatch.hand_out(self._run, now_s)
            if not self._run.waits and not self._run.waits_alone:
                self._commands += self._dispatch.help_stragglers(self._stragglers, now_s)
        elif not self._dispatch.n_running or now_s >= self._drain_until_s:
            self._finish(self._drain_reason)

    def _look_at_batch_end(self, now_s: float) -> None:
        """Start nothing more once the next item should end after the batch job does."""
        assert self._run is not None
        end = self.policy.batch_end
        if end.is_never or self._drain_until_s is not None:
            return
        following = self._run.next_waiting
        if following is None and now_s < end.ends_s:
            return
        expected_s = self._durations.expected_s(following.item) if following is not None else None
        if not end.fits(now_s, expected_s):
            self._drain_until_s, self._drain_reason = end.ends_s, "batch_end"
            self._commands.append(Notice(end.notice(now_s, expected_s)))

    def _step(self) -> bool:
        """Commit one item, or draw one, or go to the next stage; False when nothing is to be done."""
        if self._run is None:
            self._next_stage(None)
        elif (head := self._run.head()) is not None:
            if self._is_provisional(head):
                head.packed = True
                self._again(head, "measured again")
            else:
                self._commit(self._run.commit_head())
        elif self._run.ending is not None and not self._run.open:
            self._end_window(self._run, self._run.ending)
        elif self._run.ending is not None or self._drain_until_s is not None:
            return False
        elif self._run.complete:
            self._end(Ending("done"))
        elif not self._run.exhausted and self._may_draw(self._run):
            self._draw(self._run)
        else:
            return False
        return True

    def _is_provisional(self, entry: Entry) -> bool:
        """Whether a trial that was measured without packed weights may be the best: it needs them first."""
        outcome = entry.outcome
        if outcome is None or outcome.packed or outcome.status != "ok" or not entry.costs_a_trial:
            return False
        return self.history.may_be_best(self._row(entry, entry.item))  # type: ignore[arg-type]

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
        self._commands.append(Note(told(trial, outcome)))
        if before is None or self.history.best is None or before.number != self.history.best.number:
            self._tell_if_better(before)

    def _row(self, entry: Entry, candidate: Candidate) -> Trial:
        assert self._run is not None
        if entry.repeat_of is not None:
            return self.history.repeat(entry.task, self._run.stage.name, candidate, entry.repeat_of)
        assert entry.outcome is not None
        return self.history.judge(entry.task, self._run.stage.name, candidate, entry.outcome)

    def _commit_row(self, row: Trial) -> Trial:
        before = self.history.best
        row = self.history.commit(row)
        self._commands.append(Commit(row, self.history.best))
        self._tell_if_better(before)
        return row

    def _tell_if_better(self, before: Trial | None) -> None:
        best = self.history.best
        if best is not None and best is not before:
            self._commands.append(Improve(best))

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
            self._finish(reason)
        else:
            self._end_stage(run)

    def _end_stage(self, run: StageRun) -> None:
        run.rows = [self.history.row(row.number) for row in run.rows]  # some have a latency now
        result = run.result(self.history.goal)
        is_empty = all(t.duplicate_of is not None for t in run.rows) and not run.probe_values
        self._n_empty_stages = self._n_empty_stages + 1 if is_empty else 0
        if self._n_empty_stages >= MAX_EMPTY_STAGES:
            self._finish("space")
        else:
            self._next_stage(result)

    def _drop(self, entry: Entry) -> None:
        self._commands += self._dispatch.cancel(entry)
        if isinstance(entry.item, Candidate) and self._first_by_digest.get(entry.item.digest) == entry.task:
            del self._first_by_digest[entry.item.digest]

    def _next_stage(self, result: StageResult | None) -> None:
        before = self.history.best
        stage = self._strategy.next_stage(result)
        self._commands += self._strategy.take_notes()
        self._tell_if_better(before)  # it may have named another trial
        if stage is None:
            self._finish("space" if self._space_is_used_up() else "strategy")
            return
        durations = self._durations if self.policy.only_counts else None
        self._run = StageRun(self._n_stages, stage, durations)
        self._n_stages += 1
        self._commands.append(OpenStage(self._run.index, stage))

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
        self._commands += self._strategy.take_notes()
        if item is None:
            return
        item = self._as_recorded(run, item)
        self._add(
            run, self._probe_entry(run, item) if isinstance(item, Probe) else self._trial_entry(run, item)
        )

    def _add(self, run: StageRun, entry: Entry) -> None:
        self._commands.append(Propose(run.index, entry.index, entry.task, entry.item))
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
            self._commands.append(Notice(text))
        return recorded

    def _trial_entry(self, run: StageRun, candidate: Candidate) -> Entry:
        entry = Entry(run.n_drawn, self._next_trial, candidate)
        self._next_trial += 1
        first = self._first_by_digest.setdefault(candidate.digest, entry.task)
        known = self.recording.outcome(candidate) if self.recording else None
        if first != entry.task:
            entry.repeat_of = first
            entry.step("known")
        elif known is not None:
            entry.step("known")
            self._measured(entry, known)
        return entry

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
            self._measured(entry, known)
        return entry

    # Ends

    def _stop_at_timeout(self) -> None:
        """End what runs (a row that uses no trial); commit the finished trials behind it in order.

        A job that had ended in this way makes the same rows when it is run again without more time.
        """
        run = self._run
        assert run is not None
        if run.ending is None:
            self._draw_recorded(run)
        for entry in run.open:
            is_cut = entry.rank is not None or self._was_cut(entry)
            if is_cut:
                self._commands += self._dispatch.cancel(entry)
                entry.step("cancelled")
            if isinstance(entry.item, Probe):
                continue
            if is_cut:
                self._commit_row(self.history.cancelled(entry.task, run.stage.name, entry.item))
            elif entry.state == "measured" and (entry.repeat_of is None or self.history.has(entry.repeat_of)):
                entry.step("committed")
                self._commit_row(self._row(entry, entry.item))
        self._finish("timeout")

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

    def _finish(self, stop_reason: str) -> None:
        self._commands += self._dispatch.cancel_all()
        best = self.history.best
        met = best is not None and best.meets_goal
        if stop_reason in INTERRUPTIONS:
            self.finished = Finish("interrupted", stop_reason)
        else:
            self.finished = Finish("goal_met" if met else "goal_not_met", stop_reason)
        self._commands.append(self.finished)
