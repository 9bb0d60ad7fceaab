"""The master on rank 0: from a job to a finished search.

`Preparation` makes everything ready; the `Search` does the work; what concerns both is here: ranks that are
lost, refusals, logs, the end.
"""

import math

from disttune.config.errors import DisttuneError, InputError, InternalError
from disttune.config.job import Job
from disttune.runtime.awake_clock import AwakeClock
from disttune.runtime.crew import Crew
from disttune.runtime.heartbeats import Heartbeats
from disttune.runtime.journal import JournalContents
from disttune.runtime.journal_watch import JournalWatch
from disttune.runtime.listener import Listener
from disttune.runtime.log_files import LogFiles
from disttune.runtime.messages import (
    Alive,
    EndProcess,
    Heard,
    LogText,
    ProcessId,
    RankLost,
    Refused,
    ToMaster,
    Unusable,
)
from disttune.runtime.preparation import Preparation
from disttune.runtime.result import Baseline, TuningResult, best_of
from disttune.runtime.run_directory import RunDirectory
from disttune.runtime.search import Search
from disttune.runtime.start_messages import Functions
from disttune.runtime.transport import Transport
from disttune.schedule.pareto import pareto_front

LONG_LOADING_S = 120.0
RANKS_OWN_TASKS = ("Load", "LoadStatistics", "LearnResults")  # what fails there concerns that rank alone


class Master:
    """Receives what ranks say, commands them, until `done`.

    Args:
        job: what to do.
        functions: the user's functions when they do not come from files.
        run: the open run directory.
        contents: of its journal.
        transport: to the agents.
        listener: is told what happens.
    Raises:
        InputError: the strategy or the target is unknown.
    """

    def __init__(
        self,
        job: Job,
        functions: Functions,
        run: RunDirectory,
        contents: JournalContents,
        transport: Transport,
        listener: Listener,
    ):
        self._transport = transport
        self._listener = listener
        self._warnings: list[str] = []
        self._ready = Preparation(job, functions, run, contents, transport, listener, self._warn)
        self._logs = LogFiles(lambda: run.logs)
        self._watch: JournalWatch | None = None
        self._is_ending = False
        self._lost_ranks: set[int] = set()
        self._awake_s = AwakeClock(transport.now_s)
        self._preparation_s = job.runtime.preparation_timeout
        self._word_at_s: float | None = math.inf  # when a rank that is still loading is told of
        is_watched = job.runtime.isolation == "process"  # within a process nobody sends while a trial runs
        self._heartbeats = Heartbeats(job.runtime.lost_after if is_watched else math.inf)

    @property
    def _search(self) -> Search | None:
        return self._ready.search

    @property
    def done(self) -> bool:
        return self._search is not None and self._search.done

    @property
    def journal_descriptors(self) -> list[int]:
        """What becomes readable when records are on disk."""
        return [self._ready.journal.fileno()] if self._ready.journal else []

    def interrupt(self, grace_s: float) -> None:
        """End soon, keeping what ends within the grace time.

        Raises:
            DisttuneError: the search has not begun, so there is nothing to wait for.
        """
        if self._search is None:
            raise InterruptedEarlyError(
                "asked to end before the first trial; run the same command again to go on"
            )
        self._listener.warned(
            f"asked to end: no more trials are started; waiting at most {grace_s:g} s for those that run"
        )
        self._is_ending = True
        self._search.interrupt(grace_s)

    def receive(self, source: int, message: ToMaster) -> None:
        crew, search = self._ready.crew, self._search
        if isinstance(message, Alive):
            self._transport.send(source, Heard())
        if source in self._lost_ranks:
            return
        self._heartbeats.heard(source, self._awake_s())
        match message:
            case Alive():
                pass
            case LogText():
                self._logs.append(source, message.text)
            case Refused() if message.task != "Export":
                self._refused(source, message)
            case Unusable():
                self._lose(source, message.reason, message.exit_code)
            case RankLost():
                self._lose(source, message.reason)
            case _ if self._ready.receive(source, message):
                pass
            case _ if crew is not None and crew.receive(source, message):
                pass
            case _:
                assert search is not None
                search.receive(source, message)

    def poll(self) -> None:
        self._watch_journal()
        self._look_for_silence()
        search, crew = self._search, self._ready.crew
        if crew is not None:
            self._tell_of_loading(crew)
        if search is not None:
            assert crew is not None
            for rank in crew.take_equipped():
                search.join(rank, self._ready.hosts[rank].node)
            search.poll()

    def result(self) -> TuningResult:
        """What the job came to, after `done`."""
        search, prepared = self._search, self._ready.prepared
        assert search is not None
        assert search.finish is not None
        assert prepared is not None
        history = search.scheduler.history
        goal = history.goal
        return TuningResult(
            status=search.finish.status,
            stop_reason=search.finish.stop_reason,
            baseline=Baseline(goal.baseline_metric, goal.baseline, prepared.summary.size_bytes),
            goal=goal.target,
            best=best_of(history.best),
            n_trials=history.n_counted,
            n_probes=search.scheduler.n_probes,
            seconds=search.now_s(),
            n_ranks=self._transport.size,
            versions=prepared.versions,
            evaluators=tuple(o.name for o in goal.objectives),
            trials=tuple(history.trials),
            warnings=tuple(self._warnings),
            pareto=pareto_front(history.trials, goal.higher_is_better),
            sensitivity=tuple(history.tuning.sensitivity),
            higher_is_better=goal.higher_is_better,
        )

    def close(self) -> None:
        """Write what is left of the journal, and results for a resume."""
        if self._ready.works is not None:
            self._ready.works.close()
        journal = self._ready.journal
        if journal is not None and not journal.close():
            self._listener.warned(f"the journal could not be written to its end: {journal.failure}")

    def _watch_journal(self) -> None:
        journal = self._ready.journal
        if journal is None:
            return
        if self._watch is None:
            self._watch = JournalWatch(journal, self._listener.warned)
        journal.clear()
        self._watch.check(self._transport.now_s(), self._is_ending)

    def _refused(self, source: int, message: Refused) -> None:
        """A task beside the trials ended in a message: loading on another rank concerns that rank alone."""
        if source != 0 and message.task in RANKS_OWN_TASKS:
            self._lose(source, message.message, message.exit_code)
        else:
            raise _error(message.exit_code)(message.message)

    def _tell_of_loading(self, crew: Crew) -> None:
        """A word, once, when a rank takes long to import the user's code."""
        if self._word_at_s == math.inf:
            self._word_at_s = self._awake_s() + LONG_LOADING_S
        if self._word_at_s is None or self._awake_s() < self._word_at_s:
            return
        self._word_at_s = None
        if crew.loading:
            ranks = ", ".join(map(str, crew.loading))
            self._warn(
                f"after {LONG_LOADING_S:g} s these ranks are still loading your code and data: {ranks}. "
                f"The others work; after {self._preparation_s:g} s the job goes on without them"
            )

    def _look_for_silence(self) -> None:
        for rank in self._heartbeats.silent(self._awake_s()):
            self._lose(rank, f"nothing was heard of it for {self._heartbeats.lost_after_s:g} s")
            self._end_stopped(rank)

    def _end_stopped(self, rank: int) -> None:
        """Let another rank of its node end a silent rank, where MPI bears that."""
        hosts = self._ready.hosts
        if not self._transport.survives_loss or rank not in hosts:
            return
        stopped = hosts[rank]
        beside = [r for r in sorted(hosts) if r not in self._lost_ranks and hosts[r].node == stopped.node]
        if beside:
            self._transport.send(beside[0], EndProcess(ProcessId(stopped.pid, stopped.started_ticks)))

    def seen_off_by(self, rank: int) -> tuple[ProcessId, ...]:
        """Agents whose end a rank waits for: a node's first rank for all others, its last for those between.

        None where MPI does not bear that one of them is killed.
        """
        hosts = self._ready.hosts
        if rank not in hosts or not self._transport.survives_loss:
            return ()
        on_node = sorted(r for r, host in hosts.items() if host.node == hosts[rank].node)
        able = [r for r in on_node if r not in self._lost_ranks]
        others = {r for r in on_node if r not in (able[0], rank)} if rank in (able[0], able[-1]) else set()
        return tuple(ProcessId(hosts[r].pid, hosts[r].started_ticks) for r in sorted(others))

    def _lose(self, source: int, reason: str, exit_code: int = 1) -> None:
        """Go on without a rank; not without rank 0, nor without any that works."""
        crew = self._ready.crew
        if source == 0:
            raise _error(exit_code)(reason)
        self._lost_ranks.add(source)
        self._heartbeats.forget(source)
        if crew is None:
            self._warn(f"rank {source} takes no part: {reason}")
            self._ready.lose(source)
            return
        crew.lose(source)
        if not crew.works:
            raise _error(exit_code)(f"no rank is left that can run trials. Rank {source}: {reason}")
        if self._search is not None:
            self._search.receive(source, Unusable(reason))
        else:
            self._warn(f"rank {source} takes no part: {reason}. Its work goes to others.")

    def _warn(self, text: str) -> None:
        self._warnings.append(text)
        self._listener.warned(text)


def _error(exit_code: int) -> type[DisttuneError]:
    return InputError if exit_code == 2 else InternalError


class InterruptedEarlyError(DisttuneError):
    """The job was asked to end before its search began."""

    exit_code = 75
