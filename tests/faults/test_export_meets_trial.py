"""An export between the building of a trial's model and its evaluation leaves that model in hand."""

import os
from pathlib import Path

import onnx

from disttune.config.job_file import load_job
from disttune.quantize.digest import model_digest
from disttune.runtime.messages import Answer, Built, EvaluateModel, Export, Exported, OpenFile, RunTask
from disttune.runtime.replica import create_memory_file
from disttune.runtime.start_messages import BaselineMeasured, Functions, MeasureBaseline, Prepare, Prepared
from disttune.runtime.trial_worker import TrialWorker
from disttune.space.build import build_space
from disttune.space.capability import load_capability
from disttune.space.space import Space
from tests.distributed.jobs import make_job


def prepared_worker(folder: Path) -> tuple[TrialWorker, Space]:
    """A trial process's worker that has loaded a small job, and the job's space."""
    worker, job, file = TrialWorker(), load_job(make_job(folder)), create_memory_file()
    prepared = worker.handle(Prepare(job, Functions(), 1, OpenFile(os.getpid(), file)))
    assert isinstance(prepared, Prepared), prepared
    capability = load_capability(job.model.target)
    space = build_space(prepared.summary, capability, job.quantization, prepared.engine_methods)
    assert isinstance(worker.handle(MeasureBaseline()), BaselineMeasured)
    os.close(file)
    return worker, space


def test_export_before_an_evaluation_does_not_change_what_is_evaluated(tmp_path: Path):
    worker, space = prepared_worker(tmp_path)
    first, second = space.op_wise()[0], space.op_wise()[5]
    path = str(tmp_path / "best.onnx")
    alone = [evaluated(worker, RunTask(i, i, candidate, 60.0)) for i, candidate in enumerate([first, second])]

    built = worker.handle(RunTask(2, 2, first, 60.0))
    exported = worker.handle(Export(1, second, path))
    answer = worker.handle(EvaluateModel(2))

    assert isinstance(built, Built)
    assert isinstance(exported, Exported)
    assert isinstance(answer, Answer)
    assert answer.outcome.values == alone[0].outcome.values != alone[1].outcome.values
    assert answer.outcome.model_digest == built.model_digest == alone[0].outcome.model_digest
    assert model_digest(onnx.load(path)) == exported.model_digest == alone[1].outcome.model_digest


def evaluated(worker: TrialWorker, task: RunTask) -> Answer:
    worker.handle(task)
    answer = worker.handle(EvaluateModel(task.assignment))
    assert isinstance(answer, Answer)
    return answer
