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
    Combine,
    Command,
    Evaluate,
    Event,
    Finish,
    Interrupt,
    ModelBuilt,
    Note,
    Notice,
    PartDone,
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
from disttune.schedule.parts import Parts
from disttune.schedule.splitting import NO_SPLITTING, Splitting, SplitTrials
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
        splitting: what an evaluation can be split into; by default it cannot.
    """

    def __init__(
        self,
        strategy: Strategy,
        history: History,
        policy: ExitPolicy,
        recording: Recording | None = None,
        splitting: Splitting = NO_SPLITTING,
    ):
        self.history = history
        self._policy = policy
        self._dispatch = Dispatch()
        self._durations = Durations(history.tuning.summary)
        self._stragglers = Stragglers(self._durations)
        self._splits = SplitTrials(splitting)
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
            case PartDone():
                self._part_done(event)
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
            assert sum(len(e.ranks) for e in entries) == self._dispatch.n_running
            assert all(e.ranks for e in running)
            assert len({e.task for e in entries}) == len(entries)

    def _tell(self, *commands: Command) -> None:
        self._commands += commands

    # Events

    def _built(self, event: ModelBuilt) -> None:
        entry = self._dispatch.answered(event.rank, event.assignment)
        if entry is None:
            return
        if entry.parts is not None:
            self._helper_built(entry, entry.parts, event)
            return
        known = self._course.known(event.model_digest)
        if known is not None and known.status == "pruned" and self._course.needs_metrics:
            known = None
        if known is not None and (known.packed or not entry.packed):
            self._skip(event.rank, event.assignment)
            self._settle(entry, replace(known, seconds=0.0, n_ranks=1, rank=event.rank))
        elif self._may_split(entry) and self._splits.begin(
            entry, event.model_digest, event.now_s - entry.started_s
        ):
            self._next_part(entry, event.rank, event.assignment, event.now_s)
        else:
            stop = None if entry.to_its_end else self._course.stop_rule()
            self._tell(Evaluate(event.rank, event.assignment, entry.packed, stop=stop))

    def _may_split(self, entry: Entry) -> bool:
        """Whether ranks are going to be idle while this runs, and it is not run twice already."""
        if len(entry.ranks) > 1 or max(self._dispatch.n_workers, self._splits.n_ranks) == 1:
            return False
        return self._others_share < 1 if self._course.draws_no_more else not self._course.stage.n_waiting

    @property
    def _others_share(self) -> float:
        """How much of a trial the ranks are going to be busy with what waits, if all take the same."""
        return self._course.stage.n_waiting / self._dispatch.n_workers

    def _helper_built(self, entry: Entry, parts: Parts, event: ModelBuilt) -> None:
        if event.model_digest == parts.model_digest:
            self._next_part(entry, event.rank, event.assignment, event.now_s)
            return
        parts.takes_helpers = False
        self._skip(event.rank, event.assignment)
        self._tell(
            Notice(
                f"trial {entry.task}: rank {event.rank} built another model than the first rank; its parts "
                "are evaluated by others. Quantizing is not deterministic on these machines"
            )
        )
        if not entry.ranks:
            self._in_one_piece(entry)

    def _part_done(self, event: PartDone) -> None:
        entry = self._dispatch.answered(event.rank, event.assignment)
        if entry is None or entry.parts is None:
            return
        if event.overhead_s is not None:
            self._splits.learn_overhead(event.overhead_s)
        entry.parts.done(event.rank, event.evaluation_s)
        self._next_part(entry, event.rank, event.assignment, event.now_s)

    def _next_part(self, entry: Entry, rank: int, assignment: int, now_s: float) -> None:
        """What a rank that holds the model of a split trial does next."""
        parts = entry.parts
        assert parts is not None
        if parts.complete:
            self._tell(*self._dispatch.cancel(entry, but=rank), Combine(rank, assignment, entry.packed))
            return
        hands = max(len(entry.ranks), self._dispatch.n_workers // max(1, self._dispatch.n_entries))
        may_repeat = not self._course.stage.n_waiting
        blocks = parts.take(rank, self._splits.size(parts, hands, self._others_share), now_s, may_repeat)
        if blocks is not None:
            self._tell(Evaluate(rank, assignment, entry.packed, blocks))
        elif len(entry.ranks) > 1:
            self._skip(rank, assignment)

    def _skip(self, rank: int, assignment: int) -> None:
        self._tell(Skip(rank, assignment))
        self._dispatch.free(rank)

    def _in_one_piece(self, entry: Entry, event: str = "again") -> None:
        """Run a split trial that did not go well as if it had never been split."""
        self._tell(*self._dispatch.cancel(entry))
        entry.parts, entry.in_one_piece = None, True
        self._course.stage.again(entry, event)

    def _done(self, event: TaskDone) -> None:
        entry = self._dispatch.answered(event.rank, event.assignment)
        if entry is None:
            if difference := self._stragglers.late_answer(event):
                self._tell(Notice(difference))
            return
        self._dispatch.free(event.rank)
        parts, outcome = entry.parts, event.outcome
        if parts is not None and not parts.complete:  # a part failed: the whole is to say why
            self._in_one_piece(entry)
            return
        if parts is not None:
            outcome = replace(outcome, n_ranks=len(parts.workers))
        elif isinstance(entry.item, Candidate) and outcome.status == "ok":
            self._stragglers.learn(entry.item, outcome.seconds, event.rank)
        self._splits.learn(outcome)
        self._settle(entry, outcome)

    def _failed(self, event: TaskFailed) -> None:
        entry = self._dispatch.answered(event.rank, event.assignment)
        if entry is None:
            return
        is_split = entry.parts is not None
        was_alone = entry.alone or self._dispatch.is_alone(event.rank)
        self._dispatch.free(event.rank)
        if event.outcome.status == "crashed":
            entry.crashes += 1
            entry.avoid = event.rank
            stands = entry.crashes >= MAX_CRASHES
        elif self._dispatch.runs(entry) and not is_split:
            return  # its other run decides
        else:
            entry.alone = True
            stands = was_alone and not is_split
        if stands:
            self._settle(entry, event.outcome)
        elif is_split:
            self._in_one_piece(entry)
        elif not self._dispatch.runs(entry):
            self._course.stage.again(entry, "again")

    def _lost(self, event: WorkerLost) -> None:
        entry, node = self._dispatch.lose(event.rank)
        if entry is None or node is None:
            return
        if entry.parts is None or entry.parts.lose(event.rank, node):
            entry.losses += 1
        if self._dispatch.runs(entry):
            return  # elsewhere, too
        if entry.losses >= MAX_LOSSES:
            reason = f"{MAX_LOSSES} ranks were lost while they ran it"
            self._settle(entry, Outcome("crashed", rank=event.rank, reason=reason))
        else:
            self._course.stage.again(entry, "lost")

    def _settle(self, entry: Entry, outcome: Outcome) -> None:
        for cancel in list(self._dispatch.cancel(entry)):  # its other run, or parts
            self._tell(cancel)
            if entry.parts is None:
                self._stragglers.beaten(cancel, entry.task, outcome)
        entry.parts = None
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
                self._tell(*self._dispatch.help_with_parts(self._splits, now_s))
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
