"""The scheduler: events in, commands out. What runs where, what becomes of it, and when nothing more starts.

Pure: no clock, files, MPI or threads; time comes in with events. It knows nothing of what a candidate
means. The trial table, the best and the stop are the same for any number of workers and any order of
arrival, because the `Course` commits results in the order of proposal and decides at commits alone.
"""

from dataclasses import replace

from disttune.schedule.course import Course, Recording
from disttune.schedule.dispatch import Dispatch
from disttune.schedule.durations import Durations
from disttune.schedule.events import (
    Command,
    Evaluate,
    Event,
    Finish,
    Interrupt,
    ModelBuilt,
    Note,
    Notice,
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
from disttune.schedule.outcome import Outcome
from disttune.schedule.stage_run import Entry
from disttune.schedule.stragglers import Stragglers
from disttune.space.candidate import Candidate
from disttune.strategy.strategy import Strategy

MAX_CRASHES = 2  # trial processes that one candidate may kill
MAX_LOSSES = 3  # ranks that may vanish under one candidate: a lost node is rarely the candidate's fault


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
        self._policy = policy
        self._dispatch = Dispatch()
        self._durations = Durations(history.tuning.summary)
        self._stragglers = Stragglers(self._durations)
        self._commands: list[Command] = []
        self._course = Course(
            strategy, history, policy, recording, self._durations, self._dispatch, self._tell
        )
        self._drain_until_s: float | None = None
        self._drain_reason = "signal"

    @property
    def finished(self) -> Finish | None:
        """How the search ended."""
        return self._course.finished

    @property
    def n_probes(self) -> int:
        """Probes that were committed."""
        return self._course.n_probes

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
        assert self.history.n_counted <= self._policy.max_trials
        self._dispatch.check_invariants()
        if not self.finished:
            entries = self._course.stage.open
            assert not self._course.stage.head(), "what can be committed is committed"
            running = [e for e in entries if e.state == "running"]
            n_twice = sum(e.second is not None for e in running)
            assert len(running) + n_twice == self._dispatch.n_running
            assert len({e.task for e in entries}) == len(entries)

    def _tell(self, *commands: Command) -> None:
        self._commands += commands

    # Events

    def _built(self, event: ModelBuilt) -> None:
        entry = self._dispatch.answered(event.rank, event.assignment)
        if entry is None:
            return
        known = self._course.known(event.model_digest)
        if known is None or (entry.packed and not known.packed):
            self._tell(Evaluate(event.rank, event.assignment, entry.packed))
            return
        self._tell(Skip(event.rank, event.assignment))
        self._dispatch.free(event.rank)
        self._settle(entry, replace(known, seconds=0.0, rank=event.rank))

    def _done(self, event: TaskDone) -> None:
        entry = self._dispatch.answered(event.rank, event.assignment)
        if entry is None:
            if difference := self._stragglers.late_answer(event):
                self._tell(Notice(difference))
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
            self._course.stage.again(entry, "again")

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
            self._course.stage.again(entry, "lost")

    def _settle(self, entry: Entry, outcome: Outcome) -> None:
        for cancel in list(self._dispatch.cancel(entry)):  # its other run
            self._tell(cancel)
            self._stragglers.beaten(cancel, entry.task, outcome)
        entry.step("done")
        before = entry.outcome
        if before is not None and before.values != outcome.values:
            self._tell(
                Note(
                    f"trial {entry.task}: with packed weights, as onnxruntime runs a model by default, "
                    f"{outcome.values} instead of {before.values}; that counts"
                )
            )
        self._course.measured(entry, outcome)
        self._tell(Settle(self._course.stage.index, entry.index, entry.task, entry.item, outcome))

    # Progress

    def _advance(self, now_s: float) -> None:
        while not self.finished and self._course.step(self._drain_until_s is not None):
            pass
        if self.finished:
            return
        if self._policy.timed_out(now_s):
            self._course.stop_at_timeout()
            return
        self._look_at_batch_end(now_s)
        stage = self._course.stage
        if self._drain_until_s is None:
            if self._course.draws_no_more:
                stage.drawn_to_its_end()
            self._tell(*self._dispatch.hand_out(stage, now_s))
            if not stage.waits and not stage.waits_alone:
                self._tell(*self._dispatch.help_stragglers(self._stragglers, now_s))
        elif not self._dispatch.n_running or now_s >= self._drain_until_s:
            self._course.finish(self._drain_reason)

    def _look_at_batch_end(self, now_s: float) -> None:
        """Start nothing more once the next item should end after the batch job does."""
        end = self._policy.batch_end
        if end.is_never or self._drain_until_s is not None:
            return
        following = self._course.stage.next_waiting
        if following is None and now_s < end.ends_s:
            return
        expected_s = self._durations.expected_s(following.item) if following is not None else None
        if not end.fits(now_s, expected_s):
            self._drain_until_s, self._drain_reason = end.ends_s, "batch_end"
            self._tell(Notice(end.notice(now_s, expected_s)))
