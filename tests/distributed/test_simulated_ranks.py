"""A real run, told again to the simulated transport: the same table for any number of ranks."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from disttune.cli.space import space_of
from disttune.config.goal import Goal, Objective
from disttune.config.job import Job
from disttune.config.job_file import load_job
from disttune.quantize.graph import prepare, read_model
from disttune.quantize.summary import summarize
from disttune.report.files import trials_csv
from disttune.runtime.listener import Silent
from disttune.runtime.messages import ToMaster
from disttune.runtime.recording import JournalRecording
from disttune.runtime.records import Record
from disttune.runtime.search import Search
from disttune.runtime.transport.simulated import SimulatedRun, SimulatedTransport
from disttune.schedule.exit_policy import ExitPolicy
from disttune.schedule.history import History
from disttune.schedule.outcome import Outcome
from disttune.schedule.scheduler import Scheduler
from disttune.space.candidate import Candidate
from disttune.strategy.registry import make_strategy
from disttune.strategy.stage import Item
from disttune.strategy.tuning import Tuning
from tests.distributed.jobs import make_job, records, rows, table
from tests.distributed.launch import mpirun, run

UNREACHED = Outcome("ok", (9.9,), size_bytes=1, n_quantized=4)  # better than all, and must not count
JOBS: dict[str, dict[str, Any]] = {
    "to the budget": {"quantization": 'approach = "auto"', "max_trials": 18, "tolerable_loss": 0.0084},
    "to the goal": {"strategy": "random", "seed": 2, "stop_at": "goal", "tolerable_loss": 0.0106},
}


@dataclass
class Memory:
    """A journal that is never behind."""

    kept: list[Record] = field(default_factory=list)

    @property
    def durable(self) -> int:
        return len(self.kept)

    def append(self, record: Record) -> int:
        self.kept.append(record)
        return len(self.kept)


@dataclass(frozen=True)
class RecordedRun:
    """A job that was run, and what its journal says."""

    job: Job
    path: Path
    recording: JournalRecording

    def again(self, n_ranks: int, known: JournalRecording | None = None) -> list[dict[str, str]]:
        """The trial table on so many simulated ranks, each with a pace of its own.

        Args:
            known: what a journal holds already, of a job that goes on.
        """
        transport = SimulatedTransport(n_ranks, self._run)
        scheduler = self._scheduler(known)
        search = Search(scheduler, transport, Memory(), Silent(), trial_timeout_s=1e9, replay=known)
        search.start()
        for rank in range(n_ranks):
            search.join(rank, f"node-{rank // 8}")
        while not search.done:
            for envelope in transport.receive(1.0):
                assert isinstance(envelope.message, ToMaster)
                search.receive(envelope.source, envelope.message)
            search.poll()
        return rows(trials_csv(scheduler.history.trials, ["evaluate"]))

    def _run(self, item: Item, rank: int, n_before: int) -> SimulatedRun:
        assert isinstance(item, Candidate)
        outcome = self.recording.outcome(item) or replace(UNREACHED, model_digest=item.digest)
        return SimulatedRun(outcome, 0.01, evaluation_s=1.0 + int(item.digest[:4], 16) % 100 + rank % 3)

    def _scheduler(self, known: JournalRecording | None) -> Scheduler:
        baseline, tuning = self.recording.baseline, self.job.tuning
        assert baseline is not None
        objectives = tuple(Objective(name) for name in baseline.names)
        accuracy, original = self.job.accuracy, read_model(self.job.model.path)
        goal = Goal(objectives, baseline.values, accuracy.criterion, accuracy.tolerable_loss)
        summary = summarize(prepare(original), original)
        state = Tuning(space_of(self.job), summary, goal, tuning.seed, tuning.batch_size, tuning.max_trials)
        strategy = make_strategy(tuning.strategy, tuning.strategy_kwargs, self.job.folder)
        policy = ExitPolicy(tuning.effective_stop_at, tuning.max_trials)
        return Scheduler(strategy, History(state, tuning.objective), policy, known)


@pytest.fixture(scope="module", params=JOBS, ids=list(JOBS))
def recorded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> RecordedRun:
    """A job run on two real ranks."""
    folder = tmp_path_factory.mktemp("job")
    job = make_job(folder, **JOBS[request.param])
    run(mpirun(2, "tune", job, "-o", folder / "run"))
    ops = space_of(load_job(job)).ops
    return RecordedRun(load_job(job), folder / "run", JournalRecording(records(folder / "run", Record), ops))


@pytest.mark.parametrize("n_ranks", [1, 2, 7, 64, 1000])
def test_simulated_ranks_give_the_table_of_the_real_run(recorded: RecordedRun, n_ranks: int):
    assert recorded.again(n_ranks) == table(recorded.path)
