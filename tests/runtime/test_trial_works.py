"""The trial process's part in works: it asks, does, learns; every mistake is an answer."""

import os
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from disttune.config.errors import DataError, TrialError
from disttune.evaluate.probes import ProbeTools, register_probe
from disttune.quantize import engine
from disttune.quantize.fast import FastEngine
from disttune.quantize.work import Work
from disttune.runtime.messages import Answer, Built, Export, Exported, OpenFile, Refused, RunTask
from disttune.runtime.replica import create_memory_file, write_replica
from disttune.runtime.work_messages import LearnResults, NeedsWorks, RunWork, WorkDied, WorkDone
from disttune.space.candidate import Candidate
from disttune.strategy import Probe
from tests.runtime.test_trial_worker import Process, folder

__all__ = ["folder"]
WORK = Work("gram", "a", "gram of fc1")
STAMPED = Work("gram", "a", "gram of fc1", engine=16)


class Asking:
    """The fast engine, which first wants one result and does it as told."""

    methods: ClassVar[frozenset[str]] = FastEngine.methods
    approaches: ClassVar[frozenset[str]] = FastEngine.approaches
    recipes: ClassVar[frozenset[str]] = FastEngine.recipes
    result: ClassVar[Any] = {"x": np.arange(3)}
    forgets: ClassVar[bool] = False

    def __init__(self, *arguments: Any):
        self.fast = FastEngine(*arguments)
        self.learnt: Any = None

    def missing(self, candidate: Candidate) -> tuple[Work, ...]:
        if isinstance(self.learnt, str):
            raise TrialError(self.learnt)
        return () if self.learnt is not None and not self.forgets else (WORK,)

    def run(self, work: Work) -> Any:
        if isinstance(self.result, Exception):
            raise self.result
        return self.result

    def learn(self, work: Work, results: Any) -> None:
        self.learnt = results if isinstance(results, str) else dict(results)

    def build(self, candidate: Candidate) -> Any:
        return self.fast.build(candidate)


@pytest.fixture
def process(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Process:
    engine.engine_names()  # whoever registers later would be forgotten with ours
    monkeypatch.setitem(engine._engines, "asking", Asking)
    return Process(folder, quantization={"engine": "asking"})


def learn(process: Process) -> Any:
    descriptor = create_memory_file()
    write_replica(descriptor, Asking.result)
    place = OpenFile(os.getpid(), descriptor)
    return process.worker.handle(LearnResults(((STAMPED, place),)))


def test_candidate_is_built_once_its_works_are_learnt(process: Process):
    assert process.build(3) == NeedsWorks(3, (STAMPED,))
    assert learn(process) is None
    assert isinstance(process.build(3), Built)


def test_export_asks_too(process: Process, folder: Path):
    export = Export(0, process.candidate(), str(folder / "best.onnx"))
    assert process.worker.handle(export) == NeedsWorks(None, (STAMPED,))
    learn(process)
    assert isinstance(process.worker.handle(export), Exported)


def test_probe_asks_for_the_models_it_builds(process: Process, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("disttune.evaluate.probes.registry._REGISTERED", {})

    @register_probe("nodes")
    def nodes(tools: ProbeTools, candidate: Candidate | None, arguments: Any) -> int:
        assert candidate is not None
        return len(tools.build(candidate).graph.node)

    task = RunTask(4, 4, Probe("nodes", candidate=process.candidate()), 60.0)
    assert process.worker.handle(task) == NeedsWorks(4, (STAMPED,))
    learn(process)
    answer = process.worker.handle(task)
    assert answer.outcome.value > 4


def test_reason_for_no_result_fails_the_candidate(process: Process):
    process.build(3)
    process.worker.handle(LearnResults(((STAMPED, "fc1 is singular"),)))
    answer = process.build(3)
    assert (answer.outcome.status, answer.outcome.reason) == ("failed", "fc1 is singular")


@pytest.mark.parametrize(
    ("result", "answer"),
    [
        (TrialError("fc1 is singular"), WorkDone("a", None, "fc1 is singular")),
        (DataError("x holds NaN"), WorkDone("a", None, "x holds NaN")),
        (MemoryError(), WorkDied("a", "memory ran out (MemoryError)")),
        (
            KeyError("fc1"),
            WorkDone(
                "a", None, "a fault of disttune in gram of fc1, please report it: KeyError: 'fc1'", True
            ),
        ),
        (
            {"x": np.array([{}])},
            WorkDone(
                "a", None, "gram of fc1: result x is of type object, which cannot be kept", is_fault=True
            ),
        ),
    ],
    ids=["cannot be done", "bad data", "no memory", "fault", "objects"],
)  # fmt: skip
def test_work_that_goes_wrong_is_answered(
    process: Process, monkeypatch: pytest.MonkeyPatch, result: Any, answer: Any
):
    monkeypatch.setattr(Asking, "result", result)
    assert process.worker.handle(RunWork(STAMPED)) == answer


def test_engine_that_asks_again_for_what_it_has_learnt_does_not_go_on_for_ever(
    process: Process, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(Asking, "forgets", True)
    process.build(3)
    learn(process)
    answer = process.build(3)
    assert isinstance(answer, Answer)
    assert answer.outcome.status == "failed"
    assert "gram of fc1 is asked for again and again" in answer.outcome.reason
    export = Export(0, process.candidate(), str(folder / "best.onnx"))
    process.worker.handle(export)
    learn(process)
    assert isinstance(process.worker.handle(export), Refused)
