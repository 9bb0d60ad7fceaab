"""Everything before the search: from ranks that say hello to a scheduler that may begin.

Order: every rank says hello; rank 0's trial process loads and checks the job; the journal is compared; the
space is built; ranks get the replica; the baseline is measured. A mistake of the user ends it before any
rank has started work.
"""

import datetime
import time
from collections.abc import Callable

from disttune.config.errors import InputError
from disttune.config.goal import Goal
from disttune.config.job import Job
from disttune.config.job_file import dump_job
from disttune.config.recipes import REDUCE_RANGE
from disttune.runtime.batch_job import RESERVE_S, batch_end_at
from disttune.runtime.crew import Crew
from disttune.runtime.exporter import is_whole
from disttune.runtime.hosts import binding_warning, memory_files_warning, reduced_range, share_threads
from disttune.runtime.journal import JournalContents
from disttune.runtime.journal_writer import Journal
from disttune.runtime.listener import Listener, Opening
from disttune.runtime.messages import OpenFile, ToMaster, Welcome
from disttune.runtime.recording import JournalRecording
from disttune.runtime.records import BaselineRecord, DeadlineRecord, JobRecord, SessionRecord
from disttune.runtime.result_cache import ResultCache
from disttune.runtime.run_directory import RunDirectory, version_differences
from disttune.runtime.search import Search, default_trial_timeout_s
from disttune.runtime.semantics import semantics
from disttune.runtime.start_messages import (
    BaselineMeasured,
    CollectFiles,
    FilesCollected,
    Functions,
    Hello,
    Host,
    MeasureBaseline,
    Prepare,
    Prepared,
    Setup,
)
from disttune.runtime.transport import Transport
from disttune.runtime.works import Works
from disttune.schedule.batch_end import BatchEnd
from disttune.schedule.exit_policy import ExitPolicy
from disttune.schedule.history import History
from disttune.schedule.scheduler import Scheduler
from disttune.schedule.splitting import Splitting
from disttune.space.build import build_space
from disttune.space.capability import load_capability
from disttune.space.space import Space
from disttune.strategy.registry import make_strategy
from disttune.strategy.tuning import Tuning


class Preparation:
    """Takes in messages until there is a `search`.

    Args:
        job: what to do.
        functions: the user's functions when they do not come from files.
        run: the open run directory.
        contents: of its journal.
        transport: to the agents.
        listener: is told what happens.
        warn: takes what the user should read once.
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
        warn: Callable[[str], None],
    ):
        self.hosts: dict[int, Host] = {}
        self.prepared: Prepared | None = None
        self.journal: Journal | None = None
        self.crew: Crew | None = None
        self.works: Works | None = None
        self.search: Search | None = None
        self._job = job
        self._functions = functions
        self._run = run
        self._transport = transport
        self._listener = listener
        self._warn = warn
        self._strategy = make_strategy(job.tuning.strategy, job.tuning.strategy_kwargs, job.folder)
        self._capability = load_capability(job.model.target)
        batch_end_at()  # a mistake in it is told before any work
        self._contents = contents
        self._began_s = transport.now_s()
        self._space: Space | None = None
        self._expected = set(range(transport.size))
        self._has_begun = False
        self._recording = JournalRecording(())
        listener.phase("starting ranks")

    def receive(self, source: int, message: ToMaster) -> bool:
        """Take in a message; whether it was one about preparing."""
        match message:
            case Hello():
                self.hosts[source] = message.host
                runtime = self._job.runtime
                self._transport.send(
                    source, Welcome(runtime.heartbeat, runtime.master_silent, runtime.preparation_timeout)
                )
                self._begin_when_all_are_here()
            case Prepared():
                self._is_prepared(message)
            case BaselineMeasured():
                self._measured_baseline(message)
            case FilesCollected():
                assert self.crew is not None
                self.crew.start_away(message.files)
            case _:
                return False
        return True

    def lose(self, rank: int) -> None:
        """A rank is gone before there is a crew: begin without it."""
        self._expected.discard(rank)
        self.hosts.pop(rank, None)
        self._begin_when_all_are_here()

    # In order

    def _begin_when_all_are_here(self) -> None:
        if not self._has_begun and self.hosts.keys() == self._expected:
            self._has_begun = True
            self._all_here()

    def _all_here(self) -> None:
        threads = share_threads(self.hosts)
        for warning in (binding_warning(self.hosts), memory_files_warning(self.hosts)):
            if warning:
                self._warn(warning)
        cpus = {h.cpu for h in self.hosts.values()}
        if len(cpus) > 1:
            self._warn(
                f"ranks run on different processors ({', '.join(sorted(cpus))}): "
                "metrics may differ in the last bits"
            )
        self._listener.phase("loading and checking the job")
        self._transport.send(0, Prepare(self._job, self._functions, threads[0]))

    def _is_prepared(self, message: Prepared) -> None:
        self.prepared = message
        for warning in message.warnings:
            self._warn(warning)
        header = self._header(message)
        self._run.settle(header)
        self._contents = self._run.contents
        quantization = self._job.quantization
        self._space = build_space(
            message.summary,
            self._capability,
            quantization,
            message.engine_methods,
            approaches=message.engine_approaches,
            reduce_range=self._reduce_range(),
        )
        for warning in self._space.warnings:
            self._warn(warning)
        sizes_are_tried = getattr(self._strategy, "tries_calibration_sizes", False)
        if len(self._job.calibration.samples) > 1 and not sizes_are_tried:
            n = self._job.calibration.samples[0]
            self._warn(f"calibration.samples: strategy {self._job.tuning.strategy} takes the first size, {n}")
        self._open_journal(header)
        self._recording = JournalRecording(self._contents.records, self._space.ops)
        self._set_up_home(message)
        self._begin_baseline()

    def _reduce_range(self) -> bool:
        """One decision for all ranks and all sessions."""
        asked = self._job.quantization.reduce_range
        if not self._capability.saturates:
            return asked is True
        first = next((r for r in self._contents.records if isinstance(r, SessionRecord)), None)
        decided, sentence = reduced_range(asked, first.reduce_range if first else None, self.hosts)
        if sentence:
            self._warn(sentence)
        return decided

    def _header(self, prepared: Prepared) -> JobRecord:
        return JobRecord(
            t=0.0,
            versions=prepared.versions,
            model_digest=prepared.digests["model"],
            data_digest=prepared.digests["data"],
            code_digest=prepared.digests["code"],
            fingerprint=self._job.fingerprint(),
            strategy=self._job.tuning.strategy,
            semantics=semantics(),
        )

    def _open_journal(self, header: JobRecord) -> None:
        self.journal = self._run.adopt(header, dump_job(self._job))
        self._contents = self._run.contents
        recorded = self._contents.job
        assert recorded is not None
        for difference in version_differences(recorded, header):
            self._warn(f"{difference}: metrics may differ in the last bits")
        assert self._space is not None
        hosts = self.hosts.values()
        self.journal.append(
            SessionRecord(
                t=self._contents.seconds,
                number=self._contents.n_sessions + 1,
                n_ranks=len(self.hosts),
                hosts=tuple(dict.fromkeys(h.name for h in hosts)),
                started=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
                cpus={h.name: h.cpu for h in hosts},
                reduce_range=REDUCE_RANGE in self._space.recipes,
            )
        )

    def _set_up_home(self, prepared: Prepared) -> None:
        threads = share_threads(self.hosts)
        works = set(self.hosts)
        if not self._job.runtime.master_works and len(works) > 1:
            works.discard(0)
        setup = Setup(
            job=self._job,
            functions=self._functions,
            n_threads=threads[0],
            summary=prepared.summary,
            source=OpenFile(self.hosts[0].pid, prepared.replica_fd),
            nonce=prepared.nonce,
        )
        self.crew = Crew(
            self.hosts,
            works,
            setup,
            threads,
            prepared.n_blocks,
            self._run.cache,
            self._transport.send,
            self._listener.phase,
        )
        self.crew.start()

    def _begin_baseline(self) -> None:
        assert self.crew is not None
        given, recorded = self._job.evaluation.baseline, self._recording.baseline
        away = bool(self.crew.away)
        # which files other nodes need shows only while the evaluation runs
        is_looked_at = away and self._job.evaluation.files is None
        if recorded is not None and not is_looked_at:
            self._has_baseline(recorded.values, recorded.seconds)
        elif given is not None and not is_looked_at:
            self._has_baseline(tuple(given), 0.0)
        else:
            self._listener.phase("measuring the float model")
            self._transport.send(0, MeasureBaseline())
            return
        if away:
            self._transport.send(0, CollectFiles())

    def _measured_baseline(self, message: BaselineMeasured) -> None:
        assert self.crew is not None
        given, recorded = self._job.evaluation.baseline, self._recording.baseline
        values, seconds = message.values, message.seconds
        if message.late_code:
            late = ", ".join(message.late_code)
            self._warn(
                f"{late}: imported only while the evaluation runs, so that a change there goes unnoticed on "
                "resume: import it at the top of your code, or use --fresh after a change"
            )
        if given is not None:
            values, seconds = tuple(given), 0.0
        elif recorded is not None:
            if recorded.values != values:
                self._warn(
                    f"the float model now gives {values}; the journal has {recorded.values}, which is used"
                )
            values, seconds = recorded.values, recorded.seconds
        self._has_baseline(values, seconds)
        if self.crew.away:
            self._transport.send(0, CollectFiles())

    def _has_baseline(self, values: tuple[float, ...], seconds: float) -> None:
        prepared, space, tuning = self.prepared, self._space, self._job.tuning
        assert prepared is not None
        assert space is not None
        assert self.journal is not None
        assert self.crew is not None
        given = self._job.evaluation.baseline is not None
        if len(values) != len(prepared.objectives):
            raise InputError(
                f"evaluation.baseline holds {len(values)} numbers, but there are {len(prepared.objectives)} "
                "evaluators: give one for each"
            )
        if self._recording.baseline is None:
            names = tuple(o.name for o in prepared.objectives)
            t = self._contents.seconds
            self.journal.append(
                BaselineRecord(
                    t=t,
                    values=values,
                    names=names,
                    seconds=seconds,
                    given=given,
                    n_blocks=prepared.n_sample_blocks,
                )
            )
        goal = Goal(
            prepared.objectives, values, self._job.accuracy.criterion, self._job.accuracy.tolerable_loss
        )
        state = Tuning(
            space,
            prepared.summary,
            goal,
            tuning.seed,
            tuning.batch_size,
            tuning.max_trials,
            tuple(self._job.calibration.samples),
        )
        if goal.criterion == "relative" and 0.0 in values:
            self._warn(
                "the float model has metric 0, and a relative loss of it is nothing: "
                'use accuracy.criterion = "absolute"'
            )
        history = History(state, tuning.objective)
        policy = ExitPolicy(
            tuning.effective_stop_at,
            tuning.max_trials,
            tuning.timeout,
            tuning.find_n,
            tuning.patience,
            tuning.max_repeats,
            tuning.max_probes,
            tuning.early_stop != "off",
            tuning.early_stop_risk if tuning.early_stop == "test" else 0.0,
            self._batch_end(seconds),
        )
        splitting = Splitting(prepared.n_sample_blocks, seconds, len(self.crew.works))
        scheduler = Scheduler(self._strategy, history, policy, self._recording, splitting)
        self._begin_search(scheduler, seconds, given)

    def _begin_search(self, scheduler: Scheduler, baseline_s: float, given: bool) -> None:
        assert self.journal is not None
        assert self._space is not None
        timeout_s = self._trial_timeout_s(baseline_s, given)
        exported, n_bytes = self._recording.exported, self._recording.exported_bytes
        self.works = Works(
            self.hosts,
            self._transport.send,
            self._listener.phase,
            self._warn,
            ResultCache(self._run.cache),
        )
        self.search = Search(
            scheduler,
            self._transport,
            self.journal,
            self._listener,
            timeout_s,
            best_path=self._run.best_model,
            second_path=self._run.second_best_model,
            replay=self._recording,
            elapsed_s=self._now_s(),
            exported=exported.digest if exported and is_whole(self._run.best_model, n_bytes) else None,
            works=self.works,
        )
        self._listener.opened(
            Opening(
                run_directory=str(self._run.path),
                n_ranks=self._transport.size,
                n_nodes=len({h.node for h in self.hosts.values()}),
                strategy=self._job.tuning.strategy,
                space=self._space,
                goal=scheduler.history.goal,
                n_resumed=self._recording.n_results,
                max_trials=self._job.tuning.max_trials,
            )
        )
        self.search.start()

    def _batch_end(self, baseline_s: float) -> BatchEnd:
        """In seconds of the job; clocks are looked at once."""
        at = batch_end_at()
        if at is None:
            return BatchEnd()
        left_s = at - time.time() - RESERVE_S
        return BatchEnd(self._now_s() + max(0.0, left_s), baseline_s)

    def _now_s(self) -> float:
        """Seconds of the job, over all sessions."""
        return self._contents.seconds + self._transport.now_s() - self._began_s

    def _trial_timeout_s(self, baseline_s: float, given: bool) -> float | None:
        """Deadline of an evaluation; None when only trial 0 can tell."""
        assert self.journal is not None
        asked, recorded = self._job.tuning.trial_timeout, self._recording.deadline
        if asked is not None:
            timeout_s = asked or float("inf")
        elif recorded is not None:
            return recorded.trial_timeout_s
        elif given:
            return None
        else:
            timeout_s = default_trial_timeout_s(baseline_s)
        if recorded is None and timeout_s != float("inf"):
            self.journal.append(DeadlineRecord(t=self._contents.seconds, trial_timeout_s=timeout_s))
        return timeout_s
