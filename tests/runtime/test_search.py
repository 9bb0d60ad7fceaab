"""The search on simulated ranks: told once it is on disk, exports of the best, lost ranks."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from disttune.config.errors import DisttuneError
from disttune.runtime.exporter import is_whole
from disttune.runtime.listener import Silent
from disttune.runtime.messages import (
    CancelTask,
    CombineScores,
    Envelope,
    EvaluateModel,
    Export,
    Exported,
    RankLost,
    Refused,
    RunTask,
    ToAgent,
    ToMaster,
    Unusable,
)
from disttune.runtime.records import (
    CommitRecord,
    DeadlineRecord,
    ExportRecord,
    FinishRecord,
    ProposalRecord,
    Record,
    ResultRecord,
)
from disttune.runtime.search import Search
from disttune.runtime.transport.simulated import SimulatedRun, SimulatedTransport
from disttune.schedule.exit_policy import ExitPolicy
from disttune.schedule.outcome import Outcome
from disttune.space.candidate import Candidate
from disttune.strategy import Stage
from disttune.strategy.trial import Trial
from tests.simulated import Listed, SimulatedJob, small_space

SPACE = small_space(4)
BEST = Path("/run/best.onnx")


@dataclass
class Disk:
    """A journal whose records are durable only when a test says so, or at once."""

    at_once: bool = True
    kept: list[Record] = field(default_factory=list)
    durable: int = 0

    def append(self, record: Record) -> int:
        self.kept.append(record)
        if self.at_once:
            self.sync()
        return len(self.kept)

    def sync(self) -> None:
        self.durable = len(self.kept)

    def of(self, kind: type[Record]) -> list[Record]:
        return [r for r in self.kept if isinstance(r, kind)]


class Told(Silent):
    """Remembers commits and warnings."""

    def __init__(self) -> None:
        self.commits: list[tuple[int, int | None]] = []
        self.warnings: list[str] = []

    def committed(self, trial: Trial, best: Trial | None) -> None:
        self.commits.append((trial.number, best.number if best else None))

    def warned(self, text: str) -> None:
        self.warnings.append(text)


class Ranks(SimulatedTransport):
    """Simulated ranks that keep what they are sent; exports are answered as told, after a second."""

    def __init__(
        self, n_ranks: int, run: Callable[..., SimulatedRun], export: Callable[[Export], ToMaster],
        n_blocks: int = 0,
    ):  # fmt: skip
        super().__init__(n_ranks, run, n_blocks=n_blocks)
        self.sent: list[tuple[int, ToAgent | ToMaster]] = []
        self._export = export

    def send(self, to: int, message: ToAgent | ToMaster) -> None:
        self.sent.append((to, message))
        super().send(to, message)
        if isinstance(message, Export):
            self._events.put(self.now_s() + 1.0, Envelope(0, self._export(message)))

    def of(self, kind: type) -> list[object]:
        return [m for _, m in self.sent if isinstance(m, kind)]


def written(message: Export) -> ToMaster:
    return Exported(message.trial, f"model {message.candidate.digest}", message.path)


class Scene:
    """A search over candidates with these metrics, the goal being 0.9.

    Args:
        metrics: one for each trial, in order.
        ranks: of the job.
        join: how many of them are ready at the start.
        seconds: of an evaluation, by rank.
        options: of `Search`, or of the policy.
    """

    def __init__(self, *metrics: float, ranks: int = 1, join: int | None = None, disk: Disk | None = None,
                 export: Callable[[Export], ToMaster] = written, trial_timeout_s: float | None = 60.0,
                 exported: str | None = None, seconds: Callable[[int], float] = lambda _: 1.0,
                 policy: ExitPolicy | None = None, n_blocks: int = 0):  # fmt: skip
        self.disk, self.told = disk or Disk(), Told()
        self._seconds = seconds
        self.values = dict(zip(SPACE, metrics, strict=False))
        self.transport = Ranks(ranks, self._run, export, n_blocks)
        job = SimulatedJob(lambda: Listed(Stage("all", list(self.values))), SPACE, lambda c: 0.0,
                           policy=policy or ExitPolicy("budget"), n_blocks=n_blocks,
                           evaluation_s=seconds(0))  # fmt: skip
        self.search = Search(
            job.scheduler(), self.transport, self.disk, self.told, trial_timeout_s,
            best_path=BEST, exported=exported,
        )  # fmt: skip
        self.search.start()
        for rank in range(ranks if join is None else join):
            self.search.join(rank, "node")

    def _run(self, item: Candidate, rank: int, n_before: int) -> SimulatedRun:
        value, digest = self.values[item], f"model {item.digest}"
        seconds = self._seconds(rank)
        outcome = Outcome("ok", (value,), None, digest, 9, 4, 0.5 + seconds, evaluation_s=seconds, rank=rank)
        return SimulatedRun(outcome, build_s=0.5, evaluation_s=seconds)

    def step(self, seconds: float = 0.25) -> None:
        for envelope in self.transport.receive(seconds):
            self.search.receive(envelope.source, envelope.message)
        self.search.poll()

    def run(self, seconds: float = 100.0) -> "Scene":
        """Until the end, or for so long."""
        until_s = self.transport.now_s() + seconds
        while not self.search.done and self.transport.now_s() < until_s:
            self.step()
        return self

    def exports(self) -> list[int]:
        return [m.trial for m in self.transport.of(Export)]


# What is on disk before it counts


def test_a_commit_is_told_only_when_its_result_is_on_disk():
    scene = Scene(0.95, disk=Disk(at_once=False))
    scene.run(10)
    assert len(scene.disk.of(ResultRecord)) == 1
    assert scene.told.commits == []
    assert scene.exports() == []

    scene.disk.sync()
    scene.run(10)

    assert scene.told.commits == [(0, 0)]
    assert scene.exports() == [0]


def test_handing_out_does_not_wait_for_the_disk():
    scene = Scene(0.1, 0.2, 0.3, 0.4, ranks=2, disk=Disk(at_once=False)).run(20)

    rank_1 = [m.task for to, m in scene.transport.sent if to == 1 and isinstance(m, RunTask)]
    assert len(rank_1) >= 2


def test_a_search_ends_only_when_all_of_it_is_on_disk():
    disk = Disk(at_once=False)
    scene = Scene(0.95, disk=disk, policy=ExitPolicy("goal")).run(10)
    assert not scene.search.done

    for _ in range(5):
        disk.sync()
        scene.run(2)

    assert scene.search.done
    assert disk.of(FinishRecord) == [disk.kept[-1]]


def test_a_trial_is_proposed_before_it_is_handed_out_and_settled_before_it_is_committed():
    scene = Scene(0.5, 0.95).run()

    kinds = [
        type(r).__name__
        for r in scene.disk.kept
        if isinstance(r, ProposalRecord | ResultRecord | CommitRecord)
    ]
    assert kinds == ["ProposalRecord", "ProposalRecord", "ResultRecord", "CommitRecord", "ResultRecord",
                     "CommitRecord"]  # fmt: skip


def test_a_trial_on_a_slow_rank_is_run_on_an_idle_one_too_and_cancelled_where_it_is_late():
    scene = Scene(*[0.5] * 12, ranks=2, seconds=lambda rank: 20.0 if rank == 1 else 1.0).run()

    sent = [(to, m) for to, m in scene.transport.sent if isinstance(m, RunTask | CancelTask)]
    twice = {m.task: m.assignment for to, m in sent if to == 1 and isinstance(m, RunTask)}
    cancelled = [m.assignment for to, m in sent if isinstance(m, CancelTask) and to == 1]
    (late,) = [task for task, assignment in twice.items() if assignment in cancelled]
    assert [to for to, m in sent if isinstance(m, RunTask) and m.task == late] == [1, 0]
    assert [number for number, _ in scene.told.commits] == list(range(12))
    assert len(scene.disk.of(ResultRecord)) == 12
    assert scene.transport.now_s() < 25.0


# Parts


def test_a_split_trial_has_one_record_with_the_seconds_of_all_its_ranks():
    scene = Scene(0.5, ranks=4, seconds=lambda rank: 10.0, n_blocks=50).run()

    (record,) = scene.disk.of(ResultRecord)
    assert record.n_ranks == 4
    assert record.evaluation_s == pytest.approx(10.0)
    assert record.values == (0.5,)
    assert scene.transport.now_s() < 6.0
    (combined,) = scene.transport.of(CombineScores)
    assert combined.scores == tuple(range(50))


def test_parts_take_together_no_longer_than_one_piece_may():
    scene = Scene(0.5, ranks=4, seconds=lambda rank: 100.0, n_blocks=50, trial_timeout_s=60.0)
    while not any(m.blocks is None for m in scene.transport.of(EvaluateModel)):
        scene.step()

    assert scene.transport.now_s() < 30.0  # then it runs once more, in one piece and alone
    assert len(scene.transport.of(CancelTask)) >= 3


# Export


def test_the_best_is_exported_at_each_improvement():
    scene = Scene(0.2, 0.1, 0.5, 0.95, 0.96).run()

    assert scene.exports() == [0, 2, 3]  # 0.95 meets the goal first
    assert [r.trial for r in scene.disk.of(ExportRecord)] == [0, 2, 3]
    assert scene.search.finish.status == "goal_met"


def test_an_export_goes_before_the_next_trial_of_rank_0():
    scene = Scene(0.2, 0.5, 0.95).run()

    order = [type(m).__name__ for _, m in scene.transport.sent if isinstance(m, RunTask | Export)]
    assert order == ["RunTask", "Export"] * 3


def test_quick_improvements_make_one_export_and_the_last_one_is_in_the_file():
    scene = Scene(*(0.1 * i for i in range(1, 8)), seconds=lambda _: 0.1).run()

    assert len(scene.exports()) < 7
    assert scene.exports()[-1] == 6
    assert scene.search.finish.status == "goal_not_met"


def test_a_quick_improvement_is_exported_within_two_seconds_while_slow_trials_go_on():
    scenes: list[Scene] = []

    def seconds(rank: int) -> float:
        is_first = not scenes or len(scenes[0].transport.of(RunTask)) == 1
        return 0.1 if is_first else 50.0

    scenes.append(scene := Scene(0.5, 0.1, seconds=seconds))
    scene.run(3.0)

    assert scene.exports() == [0]
    assert not scene.search.done


@pytest.mark.parametrize(
    ("content", "n_bytes", "expected"),
    [(b"1234", 4, True), (b"12", 4, False), (None, 4, False), (b"12", None, True)],
)
def test_a_file_that_lost_bytes_with_the_power_is_not_the_exported_one(tmp_path, content, n_bytes, expected):
    if content is not None:
        (tmp_path / "best.onnx").write_bytes(content)
    assert is_whole(tmp_path / "best.onnx", n_bytes) is expected


def test_the_size_of_a_model_with_its_tensors_elsewhere_tells_nothing(tmp_path):
    for name in ("best.onnx", "best.onnx.data"):
        (tmp_path / name).write_bytes(b"12")
    assert is_whole(tmp_path / "best.onnx", 400)


def test_the_search_waits_for_the_last_export():
    scene = Scene(0.95, policy=ExitPolicy("goal"))
    while not scene.exports():
        scene.step()
    asked_s = scene.transport.now_s()
    assert not scene.search.done

    scene.run()

    assert scene.transport.now_s() >= asked_s + 1.0
    assert isinstance(scene.disk.kept[-2], ExportRecord)
    assert isinstance(scene.disk.kept[-1], FinishRecord)


def test_what_the_file_holds_already_is_not_exported_again():
    scene = Scene(0.95, exported=SPACE[0].digest, policy=ExitPolicy("goal")).run()

    assert scene.search.done
    assert scene.exports() == []


def test_a_model_that_comes_out_different_is_told():
    scene = Scene(0.95, export=lambda m: Exported(m.trial, "another model", m.path)).run()

    assert len(scene.told.warnings) == 1
    assert "trial 0 was built again for export and came out different" in scene.told.warnings[0]


def test_an_export_that_is_refused_is_told_and_stops_nothing_before_the_end():
    scene = Scene(0.95, 0.5, export=lambda m: Refused("Export", "disk full; make room", 2))

    with pytest.raises(DisttuneError, match="disk full; make room"):
        scene.run()

    assert scene.told.commits == [(0, 0), (1, 0)]
    assert "disk full; make room" in scene.told.warnings
    assert scene.disk.of(FinishRecord) == []  # the same command goes on from here


# Ranks


def test_a_lost_rank_gives_its_trial_to_another():
    scene = Scene(0.1, 0.2, 0.3, ranks=2)
    scene.step()

    scene.search.receive(1, RankLost("its node is gone"))
    scene.run()

    assert scene.told.commits == [(0, 0), (1, 1), (2, 2)]
    assert scene.told.warnings == ["rank 1 takes no further part: its node is gone. Its work goes to others."]


@pytest.mark.parametrize("message", [RankLost("gone"), Unusable("no memory")])
def test_without_ranks_the_job_ends_with_the_mend(message):
    scene = Scene(0.1)

    with pytest.raises(
        DisttuneError, match="no rank is left that can run trials; run the same command again"
    ):
        scene.search.receive(0, message)


# The deadline, where no baseline was measured


def test_only_one_rank_works_until_an_evaluation_has_shown_how_long_it_takes():
    scene = Scene(0.1, 0.2, 0.3, 0.4, ranks=3, trial_timeout_s=None)
    scene.run(1.0)
    assert [to for to, m in scene.transport.sent if isinstance(m, RunTask)] == [0]
    assert scene.transport.of(RunTask)[0].evaluation_timeout_s == 3600.0

    scene.run()

    assert {to for to, m in scene.transport.sent if isinstance(m, RunTask)} == {0, 1, 2}
    assert [r.trial_timeout_s for r in scene.disk.of(DeadlineRecord)] == [60.0]
    assert {m.evaluation_timeout_s for m in scene.transport.of(RunTask)[1:]} == {60.0}


def test_when_that_rank_is_lost_the_next_one_takes_its_place():
    scene = Scene(0.1, 0.2, 0.3, ranks=3, trial_timeout_s=None)
    scene.run(1.0)

    scene.search.receive(0, RankLost("killed"))
    scene.search.receive(1, RankLost("killed as well"))
    scene.run()

    assert scene.told.commits == [(0, 0), (1, 1), (2, 2)]
    assert scene.search.done


def test_an_interrupt_hands_out_nothing_more_and_keeps_what_ends_in_time():
    scene = Scene(0.1, 0.2, 0.3, 0.4, ranks=1)
    scene.run(0.5)

    scene.search.interrupt(grace_s=10.0)
    scene.run()

    assert (scene.search.finish.status, scene.search.finish.stop_reason) == ("interrupted", "signal")
    assert scene.told.commits == [(0, 0)]
    assert scene.exports() == [0]
