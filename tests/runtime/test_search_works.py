"""The search with works, on simulated ranks: who gets them when, and that everything comes to an end."""

from collections.abc import Sequence

from disttune.quantize.work import Work
from disttune.runtime.messages import (
    CancelTask,
    Envelope,
    Export,
    Exported,
    OpenFile,
    RunTask,
    ToAgent,
    ToMaster,
)
from disttune.runtime.search import Search
from disttune.runtime.start_messages import Host
from disttune.runtime.transport.simulated import SimulatedRun, SimulatedTransport
from disttune.runtime.work_messages import (
    CancelWork,
    GoOn,
    KeepResult,
    NeedsWorks,
    ResultKept,
    RunWork,
    WorkDone,
)
from disttune.runtime.works import Works
from disttune.schedule.exit_policy import ExitPolicy
from disttune.schedule.outcome import Outcome
from disttune.strategy import Probe, Stage
from disttune.strategy.stage import Item
from tests.runtime.test_search import BEST, SPACE, Disk, Told
from tests.simulated import Listed, SimulatedJob

Needs = Sequence[tuple[Item, str]]  # items and the keys of their works, one letter each


def work(key: str) -> Work:
    return Work("solve", key, f"gptq of {key}")


class Ranks(SimulatedTransport):
    """Ranks whose items need works, by item; so does an export, with the works of `export`."""

    def __init__(self, n_ranks: int, needs: Needs, export: str, never: str):
        super().__init__(n_ranks, self._becomes)
        self.sent: list[tuple[float, int, ToAgent | ToMaster]] = []
        self._needs = needs
        self._export = export
        self._never = never
        self._tasks: dict[int, RunTask] = {}

    def _becomes(self, item: Item, rank: int, n_before: int) -> SimulatedRun:
        if isinstance(item, Probe):
            return SimulatedRun(Outcome("failed", reason="noise", rank=rank), 0.0, 5.0)
        digest = f"model {item.digest}"
        outcome = Outcome("ok", (0.95,), model_digest=digest, size_bytes=9, n_quantized=4, rank=rank)
        return SimulatedRun(outcome, 0.5, 1.0)

    def send(self, to: int, message: ToAgent | ToMaster) -> None:
        self.sent.append((self.now_s(), to, message))
        match message:
            case RunTask() if keys := next(keys for item, keys in self._needs if item == message.item):
                self._tasks[message.assignment] = message
                self._answers(to, 0.1, NeedsWorks(message.assignment, tuple(map(work, keys))))
            case GoOn():
                super().send(to, self._tasks[message.assignment])
            case Export() if self._export:
                keys, self._export = self._export, ""
                self._answers(to, 0.1, NeedsWorks(None, tuple(map(work, keys))))
            case Export():
                digest = f"model {message.candidate.digest}"
                self._answers(to, 0.1, Exported(message.trial, digest, message.path))
            case RunWork() if message.work.key not in self._never:
                self._answers(to, 1.0, WorkDone(message.work.key, {}))
            case KeepResult():
                self._answers(to, 0.0, ResultKept(message.key, OpenFile(100, 7), b"n" * 16))
            case _:
                super().send(to, message)

    def _answers(self, rank: int, after_s: float, message: ToMaster) -> None:
        self._events.put(self.now_s() + after_s, Envelope(rank, message))

    def works(self) -> dict[str, list[int]]:
        """Ranks that were given each work."""
        found: dict[str, list[int]] = {}
        for _, to, message in self.sent:
            if isinstance(message, RunWork):
                found.setdefault(message.work.key, []).append(to)
        return found

    def times(self, kind: type) -> list[float]:
        return [at_s for at_s, _, message in self.sent if isinstance(message, kind)]


class Scene:
    """A search over items that need works."""

    def __init__(
        self,
        needs: Needs,
        ranks: int = 2,
        export: str = "",
        never: str = "",
        nodes: Sequence[str] = "aaaa",
    ):
        hosts = {r: Host(nodes[r], nodes[r], 100 + r, (0,), 1, "cpu") for r in range(ranks)}
        self.told = Told()
        self.transport = Ranks(ranks, needs, export, never)
        job = SimulatedJob(
            lambda: Listed(Stage("all", [item for item, _ in needs])),
            SPACE,
            lambda c: 0.0,
            policy=ExitPolicy("budget"),
        )
        works = Works(hosts, self.transport.send, self.told.phase, self.told.warned)
        self.search = Search(
            job.scheduler(), self.transport, Disk(), self.told, 60.0, best_path=BEST, works=works
        )
        self.search.start()
        for rank in range(ranks):
            self.search.join(rank, nodes[rank])

    def run(self, seconds: float = 100.0) -> "Scene":
        until_s = self.transport.now_s() + seconds
        while not self.search.done and self.transport.now_s() < until_s:
            for envelope in self.transport.receive(0.25):
                self.search.receive(envelope.source, envelope.message)
            self.search.poll()
        return self


def test_idle_ranks_and_the_one_that_waits_share_its_works():
    scene = Scene([(SPACE[0], "abcd")], ranks=4).run()
    assert scene.search.done
    assert sorted(ranks for works in scene.transport.works().values() for ranks in works) == [0, 1, 2, 3]
    assert len(scene.search.scheduler.history.trials) == 1


def test_trials_that_need_the_same_works_have_them_done_once():
    scene = Scene([(SPACE[0], "ab"), (SPACE[1], "bc"), (SPACE[2], "ca")], ranks=3).run()
    assert {key: len(ranks) for key, ranks in scene.transport.works().items()} == {"a": 1, "b": 1, "c": 1}
    assert [t.status for t in scene.search.scheduler.history.trials] == ["ok"] * 3


def test_export_waits_for_its_works_and_is_asked_for_again():
    scene = Scene([(SPACE[0], "")], export="x").run()
    assert scene.search.done
    assert len(scene.transport.times(Export)) == 2
    assert len(scene.transport.works()["x"]) == 1


def test_job_that_is_asked_to_end_waits_for_no_work_of_an_export():
    scene = Scene([(SPACE[0], "")], export="x", never="x")
    assert not scene.run(20.0).search.done
    scene.search.interrupt(1.0)
    scene.run(3.0)
    assert scene.search.finish is not None
    assert scene.search.finish.status == "interrupted"
    assert len(scene.transport.times(CancelWork)) == 1


def test_job_that_is_asked_to_end_cancels_trials_that_wait_and_their_works():
    scene = Scene([(SPACE[0], "x"), (SPACE[1], "x")], never="x")
    assert not scene.run(20.0).search.done
    scene.search.interrupt(1.0)
    scene.run(3.0)
    assert scene.search.finish is not None
    assert scene.search.finish.status == "interrupted"
    assert len(scene.transport.times(CancelTask)) == 2
    assert len(scene.transport.times(CancelWork)) == 1


def test_nothing_else_runs_on_a_node_while_latency_is_measured_there():
    probe = Probe("latency", {"trial": 0}, candidate=SPACE[0])
    needs: Needs = [(probe, ""), (SPACE[1], "abcd")]
    scene = Scene(needs, ranks=4, nodes="aabb").run()
    assert scene.search.done
    (rank,) = [r for _, r, m in scene.transport.sent if isinstance(m, RunTask) and m.item == probe]
    node = {0, 1} if rank < 2 else {2, 3}
    early = {r for t, r, m in scene.transport.sent if isinstance(m, RunWork) and t < 5.0}
    assert early == {0, 1, 2, 3} - node
