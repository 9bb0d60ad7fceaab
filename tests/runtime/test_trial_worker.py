"""The work of a trial process, in this one: load, build, evaluate, export; every mistake is an answer."""

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto

from disttune.config.goal import Goal, Objective
from disttune.config.job_file import job_from_dict
from disttune.runtime.messages import (
    Answer,
    Built,
    CombineScores,
    EvaluateModel,
    Export,
    Exported,
    OpenFile,
    Refused,
    RunTask,
    SkipModel,
)
from disttune.runtime.replica import create_memory_file
from disttune.runtime.start_messages import (
    BaselineMeasured,
    Functions,
    Load,
    Loaded,
    MeasureBaseline,
    Prepare,
    Prepared,
)
from disttune.runtime.trial_worker import TrialWorker
from disttune.schedule.early_stop import StopRule
from disttune.space.build import build_space
from disttune.space.candidate import Candidate
from disttune.space.capability import load_capability
from disttune.strategy import Probe
from tests.models import Graph, mlp, value

EVALUATION = """
import numpy as np
def evaluate(model):
    return float(model.run(None, {"x": np.ones((2, 6), np.float32)})[0][0, 0])
def fails(model):
    if any(n.op_type == "QuantizeLinear" for n in model.proto.graph.node):
        raise ValueError("not quantized, please")
    return 1.0
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "path", list(sys.path))
    onnx.save(mlp(), tmp_path / "model.onnx")
    (tmp_path / "eval.py").write_text(EVALUATION)
    samples = np.random.default_rng(0).standard_normal((16, 6)).astype(np.float32)
    samples[8:] *= 10
    np.savez(tmp_path / "data.npz", x=samples)
    return tmp_path


def job(folder: Path, **sections: dict[str, Any]):
    data: dict[str, Any] = {
        "model": {"path": "model.onnx"},
        "calibration": {"data": "data.npz", "samples": 16},
        "evaluation": {"function": "eval.py:evaluate"},
    }
    return job_from_dict({**data, **sections}, folder)


class Process:
    """A worker that was asked to prepare a job, and what it answered."""

    def __init__(self, folder: Path, **sections: dict[str, Any]):
        self.job = job(folder, **sections)
        self.worker = TrialWorker()
        self.replica = create_memory_file()
        place = OpenFile(os.getpid(), self.replica)
        self.prepared: Any = self.worker.handle(Prepare(self.job, Functions(), 1, place))

    def candidate(self) -> Candidate:
        assert isinstance(self.prepared, Prepared), self.prepared
        capability = load_capability(self.job.model.target)
        methods = self.prepared.engine_methods
        space = build_space(self.prepared.summary, capability, self.job.quantization, methods)
        return space.default_candidate()

    def build(self, assignment: int = 0) -> Any:
        return self.worker.handle(RunTask(assignment, assignment, self.candidate(), 60.0))

    def evaluate(self, assignment: int = 0) -> Any:
        return self.worker.handle(EvaluateModel(assignment))


def test_a_job_goes_from_loading_to_export(folder: Path):
    process = Process(folder)
    baseline = process.worker.handle(MeasureBaseline())
    built, answer = process.build(7), process.evaluate(7)
    exported = process.worker.handle(Export(0, process.candidate(), str(folder / "best.onnx")))

    assert isinstance(baseline, BaselineMeasured)
    assert isinstance(built, Built)
    assert built.assignment == 7
    assert built.n_quantized >= 2
    assert isinstance(answer, Answer)
    assert (answer.assignment, answer.outcome.status, answer.again) == (7, "ok", False)
    assert answer.outcome.values != baseline.values
    assert answer.outcome.model_digest == built.model_digest
    outcome = "target ort-cpu: all 4 nodes with codes fit its format"
    assert exported == Exported(0, built.model_digest, str(folder / "best.onnx"), True, outcome)
    assert (folder / "best.onnx").stat().st_size == built.size_bytes


def test_another_process_makes_the_same_model_and_metric_from_the_replica(folder: Path):
    first = Process(folder)
    expected = (first.build(), first.evaluate().outcome.values)
    second = TrialWorker()

    loaded = second.handle(
        Load(first.job, Functions(), 1, OpenFile(os.getpid(), first.replica), folder, first.prepared.summary)
    )

    assert loaded == Loaded()
    assert second.handle(RunTask(0, 0, first.candidate(), 60.0)) == expected[0]
    assert second.handle(EvaluateModel(0)).outcome.values == expected[1]


def test_a_float_model_whose_large_weights_preparing_changed_is_measured_as_it_came(folder: Path):
    """Against its own session. What the replica lacks of it must stay."""
    graph = Graph()
    h = graph.node("Reshape", "x", graph.constant("shape", np.array([-1, 6, 1, 1])))
    h = graph.node("Conv", h, graph.weight("w", 700, 6, 1, 1))
    statistics = [graph.weight(name, 700) for name in ("scale", "shift", "mean")]
    variance = graph.constant("variance", np.full(700, 2.0, np.float32))
    graph.node("Flatten", graph.node("BatchNormalization", h, *statistics, variance), output="y")
    model = graph.model([value("x", ["N", 6])], [value("y", ["N", 700])])
    onnx.save(model, folder / "model.onnx")
    session = onnxruntime.InferenceSession(model.SerializeToString())
    expected = float(session.run(None, {"x": np.ones((2, 6), np.float32)})[0][0, 0])
    process = Process(folder)

    baseline = process.worker.handle(MeasureBaseline())

    assert baseline.values == (expected,)
    assert process.build(0).n_quantized == 1


def test_a_scalar_input_stays_a_scalar_in_another_process(folder: Path):
    graph = Graph()
    scaled = graph.node("Mul", "x", "factor", name="scale")
    graph.node("MatMul", scaled, graph.weight("w", 6, 3), name="fc", output="y")
    inputs = [value("x", ["N", 6]), value("factor", [], TensorProto.FLOAT)]
    onnx.save(graph.model(inputs, [value("y", ["N", 3])]), folder / "model.onnx")
    (folder / "eval.py").write_text(
        EVALUATION.replace("np.float32)}", "np.float32), 'factor': np.float32(2)}")
        + 'def feeds():\n    yield {"x": np.ones((4, 6), np.float32), "factor": np.float32(2)}\n'
    )
    first = Process(folder, calibration={"loader": "eval.py:feeds"})
    expected = first.build()
    second = TrialWorker()
    place = OpenFile(os.getpid(), first.replica)
    second.handle(Load(first.job, Functions(), 1, place, folder, first.prepared.summary))

    assert second.handle(RunTask(0, 0, first.candidate(), 60.0)) == expected


def test_calibration_takes_the_first_of_several_sizes(folder: Path):
    digests = [
        Process(folder, calibration={"data": "data.npz", "samples": samples}).build().model_digest
        for samples in (8, [8, 16], [16, 8])
    ]

    assert digests[0] == digests[1] != digests[2]


def test_a_trial_that_fails_keeps_the_facts_of_its_model(folder: Path):
    process = Process(folder, evaluation={"function": "eval.py:fails"})
    built = process.build(3)

    answer = process.evaluate(3)

    assert (answer.outcome.status, answer.outcome.model_digest) == ("failed", built.model_digest)
    assert (answer.outcome.size_bytes, answer.outcome.n_quantized) == (built.size_bytes, built.n_quantized)
    assert answer.outcome.reason.startswith(
        'eval_fn "fails" raised ValueError: not quantized, please (eval.py'
    )


def test_a_probe_that_is_not_known_is_a_failed_answer(folder: Path):
    answer = Process(folder).worker.handle(RunTask(4, -1, Probe("nonsense"), 1.0))

    assert isinstance(answer, Answer)
    assert (answer.assignment, answer.outcome.status) == (4, "failed")


def test_skipping_needs_no_answer(folder: Path):
    assert Process(folder).worker.handle(SkipModel(0)) is None


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"quantization": {"engine": "fats"}}, 'no engine "fats". Nearest: "fast". All: fast, reference.'),
        (
            {"quantization": {"exclude_tensors": "nowhere"}},
            '[quantization] exclude_tensors: no tensor "nowhere"',
        ),
        ({"calibration": {"data": "no.npz"}}, 'has no file "no.npz". Nearest: "data.npz".'),
    ],
)
def test_what_cannot_be_done_is_refused_before_any_rank_works(folder: Path, sections, message):
    refused = Process(folder, **sections).prepared

    assert isinstance(refused, Refused)
    assert (refused.task, refused.exit_code) == ("Prepare", 2)
    assert message in refused.message


# Digests


def digests(folder: Path, **sections: dict[str, Any]) -> dict[str, str]:
    prepared = Process(folder, **sections).prepared
    assert isinstance(prepared, Prepared), prepared
    return prepared.digests


def test_digests_tell_model_data_and_code_apart(folder: Path):
    before = digests(folder)
    assert digests(folder) == before
    (folder / "eval.py").write_text(EVALUATION + "# and so on\n")
    assert digests(folder) == before

    (folder / "eval.py").write_text(EVALUATION.replace("[0, 0]", "[0, 1]"))
    assert _changed(before, digests(folder)) == {"code"}
    (folder / "eval.py").write_text(EVALUATION)
    np.savez(folder / "data.npz", x=np.ones((16, 6), np.float32))
    assert _changed(before, digests(folder)) == {"data"}


def test_files_of_one_name_in_two_folders_count_each(folder: Path):
    for place in ("a", "b"):
        (folder / place).mkdir()
        (folder / place / "eval.py").write_text(EVALUATION)
    functions = {"evaluators": [{"function": f"{p}/eval.py:evaluate", "name": p} for p in "ab"]}
    before = digests(folder, evaluation=functions)

    changed = []
    for place in ("a", "b"):
        (folder / place / "eval.py").write_text(EVALUATION.replace("[0, 0]", "[0, 1]"))
        changed.append(digests(folder, evaluation=functions)["code"])

    assert len({before["code"], *changed}) == 3


def test_a_job_that_has_moved_has_the_same_digests(folder: Path, tmp_path_factory: pytest.TempPathFactory):
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "job"
    before = digests(folder)

    folder.rename(elsewhere)

    assert digests(elsewhere) == before


def _changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {name for name in before if before[name] != after[name]}


# Parts of an evaluation


def of_metric(folder: Path, **sections: dict[str, Any]) -> Process:
    """Two and a half blocks of samples."""
    samples = np.random.default_rng(1).standard_normal((40, 6)).astype(np.float32)
    np.savez(folder / "samples.npz", x=samples)
    process = Process(folder, evaluation={"metric": "mse", "data": "samples.npz"}, **sections)
    process.worker.handle(MeasureBaseline())
    return process


def test_parts_on_two_processes_give_the_metric_of_one_piece_bit_for_bit(folder: Path):
    first = of_metric(folder)
    assert first.prepared.n_sample_blocks == 3
    first.build()
    whole = first.evaluate().outcome
    second = of_metric(folder)
    first.build(1)
    second.build(2)

    parts = [
        first.worker.handle(EvaluateModel(1, blocks=range(1))),
        second.worker.handle(EvaluateModel(2, blocks=range(2, 3))),
        first.worker.handle(EvaluateModel(1, blocks=range(1, 2))),
    ]
    scores = {b: s for part in parts for b, s in zip(part.blocks, part.scores, strict=True)}
    in_order = tuple(scores[block] for block in range(3))
    combined = second.worker.handle(CombineScores(2, False, in_order)).outcome

    assert combined.values == whole.values
    assert combined.model_digest == whole.model_digest
    assert [part.opening_s is None for part in parts] == [False, False, True]


@pytest.mark.parametrize(
    ("evaluation", "split_trials"),
    [({"function": "eval.py:evaluate"}, True), ({"metric": "mse", "data": "data.npz"}, False)],
)
def test_functions_of_a_model_are_not_split_and_nothing_is_when_it_is_turned_off(
    folder: Path, evaluation: dict[str, Any], split_trials: bool
):
    process = Process(folder, evaluation=evaluation, runtime={"split_trials": split_trials})
    assert process.prepared.n_sample_blocks == 0


# Trials that end early


def hopeless() -> StopRule:
    """No error at all is the goal."""
    return StopRule(Goal((Objective("mse", higher_is_better=False),), (0.0,), "absolute", 0.0), 0.0)


def test_an_evaluation_ends_early_where_the_job_asks_for_it(folder: Path):
    process = of_metric(folder, tuning={"early_stop": "bound"})
    process.build()
    whole = process.evaluate().outcome
    stopped = process.worker.handle(EvaluateModel(0, stop=hopeless())).outcome

    assert len(whole.bounds) == 2
    assert whole.status == "ok"
    assert (stopped.status, stopped.bounds) == ("pruned", whole.bounds[:1])
    assert (stopped.values, stopped.model_digest) == (None, whole.model_digest)
    assert process.prepared.warnings == ()


def test_it_is_said_that_a_test_may_end_the_best_trial(folder: Path):
    samples = np.random.default_rng(1).standard_normal((40, 6)).astype(np.float32)
    np.savez(folder / "samples.npz", x=samples)
    process = Process(
        folder,
        evaluation={"metric": "cosine", "data": "samples.npz"},
        tuning={"early_stop": "test", "early_stop_risk": 0.05},
    )
    assert any("with probability 0.05 at most" in text for text in process.prepared.warnings)


def test_it_is_said_when_no_trial_can_end_early(folder: Path):
    process = Process(folder, tuning={"early_stop": "bound"})
    assert any("tuning.early_stop: no trial ends early" in text for text in process.prepared.warnings)
    process.worker.handle(MeasureBaseline())
    process.build()
    assert process.worker.handle(EvaluateModel(0, stop=hopeless())).outcome.status == "ok"
