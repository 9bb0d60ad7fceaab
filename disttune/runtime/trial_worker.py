"""The work of a trial process: load a job, build candidates, evaluate models, export the best.

It takes the messages that an agent passes on and answers each. A message for the user (wrong input, a
failed trial) is an answer, never an exception; anything else that goes wrong is a fault of ours and is
answered as such.
"""

import errno
import hashlib
import os
import platform
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cloudpickle
import numpy
import onnx
import onnxruntime

import disttune
from disttune.config.errors import DisttuneError, InternalError, TrialError, UserCodeError
from disttune.config.job import Job
from disttune.evaluate.data import Feeds, load_feeds
from disttune.evaluate.evaluators import (
    Evaluator,
    build_evaluators,
    evaluate,
    objectives,
    specs_from_functions,
    specs_from_section,
)
from disttune.evaluate.model import QuantizedModel, check_providers
from disttune.evaluate.user_code import code_file, files_digest
from disttune.evaluate.user_files import FileRecorder, collect_files
from disttune.quantize.counts import count_quantized
from disttune.quantize.digest import model_digest, serialize
from disttune.quantize.engine import Engine, EngineSettings, find_engine
from disttune.quantize.export import save_model
from disttune.quantize.graph import prepare, read_model
from disttune.quantize.summary import input_specs, summarize
from disttune.runtime.messages import (
    Answer,
    BaselineMeasured,
    Built,
    CollectFiles,
    EvaluateModel,
    Export,
    Exported,
    FilesCollected,
    Functions,
    Load,
    Loaded,
    MeasureBaseline,
    OpenFile,
    Prepare,
    Prepared,
    Refused,
    RunTask,
    SkipModel,
    Unusable,
)
from disttune.runtime.replica import Replica, write_replica
from disttune.schedule.outcome import Outcome
from disttune.space.candidate import Candidate
from disttune.space.summary import ModelSummary

MODULES = (disttune, onnxruntime, onnx, numpy)
OWN_FILES = [p for p in Path(disttune.__file__).parent.iterdir() if p.name != "examples"]
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass
class BuiltModel:
    """The model in hand: built, and not evaluated yet or kept for the export."""

    digest: str
    proto: onnx.ModelProto
    model_digest: str
    size_bytes: int
    n_quantized: int


class TrialWorker:
    """State of one trial process.

    Args:
        directory: for temporary files.
        handed: the user's functions themselves, where this is no process of its own.
    """

    def __init__(self, directory: Path | None = None, handed: Mapping[str, Any] | None = None):
        self._directory = directory
        self._job: Job | None = None
        self._original: onnx.ModelProto | None = None
        self._prepared: onnx.ModelProto | None = None
        self._summary: ModelSummary | None = None
        self._feeds: Feeds | None = None
        self._evaluators: tuple[Evaluator, ...] = ()
        self._handed = handed
        self._functions: Mapping[str, Any] = {}
        self._recorder: FileRecorder | None = None
        self._engine: Engine | None = None
        self._n_threads = 1
        self._built: BuiltModel | None = None
        self._built_for = -1  # assignment

    def handle(self, message: object) -> object | None:
        """Do what the message asks; returns the answer, None when it needs none."""
        match message:
            case Prepare():
                return self._guarded("Prepare", lambda: self._prepare(message))
            case Load():
                return self._guarded("Load", lambda: self._load(message))
            case MeasureBaseline():
                return self._guarded("MeasureBaseline", self._baseline)
            case CollectFiles():
                return self._guarded("CollectFiles", self._collect_files)
            case Export():
                return self._guarded("Export", lambda: self._export(message))
            case RunTask():
                return self._trial(message.assignment, lambda: self._build(message))
            case EvaluateModel():
                return self._trial(message.assignment, lambda: self._evaluate(message.assignment))
            case SkipModel():
                return None
            case _:
                raise InternalError(f"a trial process was sent {message!r}")

    def _guarded(self, task: str, do: Callable[[], object]) -> object:
        try:
            return do()
        except DisttuneError as error:
            return Refused(task, str(error), error.exit_code)
        except Exception as error:
            if _is_no_room(error):
                return Refused(task, _no_room(error), 2)
            return Refused(task, f"a fault of disttune, please report it:\n{traceback.format_exc()}", 1)

    def _trial(self, assignment: int, do: Callable[[], object]) -> object:
        try:
            return do()
        except TrialError as error:
            outcome = Outcome("failed", reason=str(error))
        except DisttuneError as error:
            outcome = Outcome("failed", reason=f"{type(error).__name__}: {error}")
        except MemoryError:
            return Answer(
                assignment, Outcome("out_of_memory", reason="memory ran out (MemoryError)"), again=True
            )
        except Exception as error:
            if _is_no_room(error):  # no fault of the candidate
                return Unusable(_no_room(error), exit_code=2)
            traceback.print_exc()  # into the rank's log
            outcome = Outcome("failed", reason=f"{type(error).__name__}: {error}")
        if self._built is not None and self._built_for == assignment:
            outcome = replace(
                outcome,
                model_digest=self._built.model_digest,
                size_bytes=self._built.size_bytes,
                n_quantized=self._built.n_quantized,
            )
        return Answer(assignment, outcome)

    # Loading

    def _prepare(self, message: Prepare) -> Prepared:
        job = message.job
        self._job, self._n_threads = job, message.n_threads
        warnings: list[str] = []
        check_providers(job.model.providers)
        engine = find_engine(job.quantization.engine)
        original = read_model(job.model.path)
        outputs = [o.name for o in original.graph.output]
        self._original = original
        self._recorder = FileRecorder(job.folder, exclude=OWN_FILES)
        with self._recorder:
            self._unpack(message.functions)
            self._feeds = self._read_feeds(job, original, outputs)
            evaluators = self._make_evaluators(job.folder)
        warnings += self._feeds.warnings
        self._prepared = prepare(original, warnings.append, self._directory)
        self._summary = summarize(self._prepared, original)
        self._the_engine()  # it refuses what it cannot do at all
        reference = self._reference_outputs(evaluators)
        self._evaluators = self._with_reference(evaluators, reference)
        assert message.replica is not None
        nonce = self._fill(message.replica, reference)
        return Prepared(
            summary=self._summary,
            engine_methods=engine.methods,
            objectives=objectives(self._evaluators),
            digests=self._digests(job, message.functions),
            versions={m.__name__: m.__version__ for m in MODULES} | {"python": platform.python_version()},
            warnings=tuple(warnings),
            nonce=nonce,
            replica_fd=message.replica.descriptor,
        )

    def _unpack(self, functions: Functions) -> None:
        for place in functions.sys_path:
            if place not in sys.path:
                sys.path.append(place)
        if self._handed is not None:
            self._functions = self._handed
        elif functions.pickled:
            self._functions = cloudpickle.loads(functions.pickled)

    def _read_feeds(self, job: Job, model: onnx.ModelProto, outputs: list[str]) -> Feeds:
        given = self._functions.get("feeds")
        source = given if given is not None else job.calibration.loader or job.calibration.data
        if source is None:
            return Feeds((), None, 0)
        return load_feeds(source, job.folder, input_specs(model), max(job.calibration.samples), outputs)

    def _make_evaluators(self, folder: Path) -> tuple[Evaluator, ...]:
        job, model = self._job, self._original or self._prepared
        assert job is not None
        assert model is not None
        if "eval_fn" in self._functions:
            specs = specs_from_functions(self._functions["eval_fn"])
        else:
            specs = specs_from_section(job.evaluation)
        return build_evaluators(specs, folder, input_specs(model), [o.name for o in model.graph.output])

    def _reference_outputs(self, evaluators: tuple[Evaluator, ...]) -> dict[str, Any]:
        """Float outputs for the metrics that are held against them, computed once for all ranks."""
        outputs = {}
        for i, evaluator in enumerate(evaluators):
            if evaluator.needs_reference:
                assert self._original is not None
                with self._model(self._original) as model:
                    for j, array in enumerate(evaluator.reference_outputs(model)):
                        outputs[f"{i}/{j}"] = array
        return outputs

    def _with_reference(
        self, evaluators: tuple[Evaluator, ...], outputs: dict[str, Any]
    ) -> tuple[Evaluator, ...]:
        ready = []
        for i, evaluator in enumerate(evaluators):
            if evaluator.needs_reference:
                blocks = [outputs[f"{i}/{j}"] for j in range(len(evaluator.inputs))]
                evaluator = evaluator.with_reference(blocks)
            ready.append(evaluator)
        return tuple(ready)

    def _fill(self, file: OpenFile, reference: dict[str, Any]) -> bytes:
        assert self._prepared is not None
        assert self._feeds is not None
        descriptor = os.open(f"/proc/{file.pid}/fd/{file.descriptor}", os.O_RDWR | os.O_CLOEXEC)
        try:
            parts: dict[str, Any] = {"model": serialize(self._prepared)}
            parts |= {f"feeds/{name}": array for name, array in self._feeds.to_arrays().items()}
            parts |= {f"reference/{name}": array for name, array in reference.items()}
            return write_replica(descriptor, parts)
        finally:
            os.close(descriptor)

    def _digests(self, job: Job, functions: Functions) -> dict[str, str]:
        assert self._original is not None
        assert self._feeds is not None
        assert self._recorder is not None
        references = [e.function for e in job.evaluation.entries if e.function] + [job.calibration.loader]
        code = {code_file(r, job.folder) for r in references if r}
        if "eval_fn" not in self._functions:  # whose digest holds what it uses, and no more of the script
            code |= {p for p in self._recorder.paths if p.suffix == ".py"}
        data = [e.data for e in job.evaluation.entries if e.data]
        return {
            "model": model_digest(self._original),
            "data": _joined(self._feeds.digest, _digest_below(job.folder, data)),
            "code": _joined(functions.code_digest, _digest_below(job.folder, code)),
        }

    def _load(self, message: Load) -> Loaded:
        self._n_threads = message.n_threads
        if self._prepared is not None:  # rank 0 has loaded everything to check it
            return Loaded()
        self._job, self._summary = message.job.moved_to(message.folder), message.summary
        self._unpack(message.functions)
        descriptor = os.open(f"/proc/{message.replica.pid}/fd/{message.replica.descriptor}", os.O_RDONLY)
        replica = Replica(descriptor)
        os.close(descriptor)  # the map stays
        self._prepared = onnx.ModelProto.FromString(replica.array("model").tobytes())
        self._feeds = Feeds.from_arrays(_below(replica, "feeds/"))
        evaluators = self._make_evaluators(message.folder)
        self._evaluators = self._with_reference(evaluators, _below(replica, "reference/"))
        return Loaded()

    # Tasks

    def _baseline(self) -> BaselineMeasured:
        assert self._original is not None
        assert self._recorder is not None
        started_s = time.monotonic()
        try:
            with self._recorder, self._model(self._original) as model:
                values = evaluate(self._evaluators, model)
        except TrialError as error:
            raise UserCodeError(f"the float model could not be evaluated: {error}") from error
        return BaselineMeasured(values, time.monotonic() - started_s)

    def _collect_files(self) -> FilesCollected:
        job = self._job
        assert job is not None
        assert self._recorder is not None
        references = [e.function for e in job.evaluation.entries if e.function] + [job.calibration.loader]
        code = [code_file(r, job.folder) for r in references if r]
        code += [e.data for e in job.evaluation.entries if e.data]
        return FilesCollected(collect_files(code, self._recorder.paths, job.evaluation.files, job.folder))

    def _build(self, message: RunTask) -> Built:
        if not isinstance(message.item, Candidate):
            raise InternalError(f"no probe of kind {message.item.kind!r} is known")
        if self._built is None or self._built.digest != message.item.digest:
            self._built, self._built_for = None, -1  # never two of ours in memory
            self._built = self._new_model(message.item)
        built, self._built_for = self._built, message.assignment
        return Built(message.assignment, built.model_digest, built.size_bytes, built.n_quantized)

    def _evaluate(self, assignment: int) -> Answer:
        built = self._built
        assert built is not None
        assert self._built_for == assignment
        started_s = time.monotonic()
        with self._model(built.proto) as model:
            values = evaluate(self._evaluators, model)
        outcome = Outcome(
            "ok",
            values,
            model_digest=built.model_digest,
            size_bytes=built.size_bytes,
            n_quantized=built.n_quantized,
            evaluation_s=time.monotonic() - started_s,
        )
        return Answer(assignment, outcome)

    def _export(self, message: Export) -> Exported:
        built = self._built  # left in hand: its evaluation may come next
        if built is None or built.digest != message.candidate.digest:
            built = self._new_model(message.candidate)
        save_model(built.proto, Path(message.path))
        return Exported(message.trial, built.model_digest, message.path)

    def _new_model(self, candidate: Candidate) -> BuiltModel:
        proto = self._the_engine().build(candidate)
        size_bytes = len(serialize(proto))
        return BuiltModel(candidate.digest, proto, model_digest(proto), size_bytes, count_quantized(proto))

    def _the_engine(self) -> Engine:
        if self._engine is None:
            job = self._job
            assert job is not None
            assert self._prepared is not None
            assert self._summary is not None
            assert self._feeds is not None
            settings = EngineSettings(
                providers=tuple(job.model.providers),
                n_threads=self._n_threads,
                placement=job.quantization.placement or "speed",
                format=job.quantization.format,
                directory=self._directory,
            )
            engine = find_engine(job.quantization.engine)
            feeds = self._feeds.head(job.calibration.samples[0]).feeds
            self._engine = engine(self._prepared, self._summary, feeds, settings)
        return self._engine

    def _model(self, proto: onnx.ModelProto) -> QuantizedModel:
        assert self._job is not None
        return QuantizedModel(proto, self._n_threads, self._job.model.providers, self._directory)


def _digest_below(folder: Path, files: Iterable[Path]) -> str:
    """Over files by their place in the job's folder."""
    return files_digest({os.path.relpath(path, folder): path.read_bytes() for path in files})


def _is_no_room(error: Exception) -> bool:
    return isinstance(error, OSError) and error.errno in NO_ROOM


def _no_room(error: Exception) -> str:
    return (
        f"temporary files cannot be written to {tempfile.gettempdir()} ({error}). Make room or set TMPDIR to "
        "another place, then run the same command again."
    )


def _joined(*digests: str) -> str:
    return hashlib.blake2b("/".join(digests).encode(), digest_size=16).hexdigest()


def _below(replica: Replica, prefix: str) -> dict[str, Any]:
    return {n.removeprefix(prefix): replica.array(n) for n in replica.names() if n.startswith(prefix)}
