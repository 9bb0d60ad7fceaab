"""The work of a trial process: load a job, build candidates, evaluate models, export the best.

It takes the messages that an agent passes on and answers each. A message for the user (wrong input, a
failed trial) is an answer, never an exception; anything else that goes wrong is a fault of ours and is
answered as such.
"""

import errno
import platform
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import onnx
import onnxruntime

import disttune
from disttune.config.errors import DisttuneError, InternalError, TrialError, UserCodeError
from disttune.config.weight_methods import WEIGHT_METHODS
from disttune.evaluate.blocks import n_blocks
from disttune.evaluate.evaluators import evaluate, objectives
from disttune.evaluate.metrics import bounded_metrics, metrics_in_a_range
from disttune.evaluate.probes import ProbeTools, find_probe
from disttune.quantize.builder.writer import Blueprint
from disttune.quantize.engine import UsesStatistics, find_engine
from disttune.quantize.export import save_model
from disttune.quantize.shared_tensors import SharedTensors
from disttune.quantize.statistics.statistics import Statistics
from disttune.quantize.target_check import check_target
from disttune.quantize.work import Results, Work
from disttune.runtime.built_model import BuiltModel, built_model
from disttune.runtime.engines import Engines, WorksMissingError
from disttune.runtime.evaluation import Evaluation
from disttune.runtime.job_data import JobData
from disttune.runtime.messages import (
    Answer,
    Built,
    CombineScores,
    EvaluateModel,
    Export,
    Exported,
    OpenFile,
    PartScored,
    Refused,
    RunTask,
    SkipModel,
    Unusable,
)
from disttune.runtime.start_messages import (
    BaselineMeasured,
    BlocksMeasured,
    CalibrateBlocks,
    CollectFiles,
    FilesCollected,
    FindStatistics,
    Load,
    Loaded,
    LoadStatistics,
    MeasureBaseline,
    MergeStatistics,
    Prepare,
    Prepared,
    StatisticsLoaded,
    StatisticsMerged,
    StatisticsMissing,
)
from disttune.runtime.statistics_work import StatisticsWork, arrays, fill, mapped
from disttune.runtime.work_messages import LearnResults, NeedsWorks, RunWork, WorkDied, WorkDone
from disttune.schedule.outcome import Outcome
from disttune.space.candidate import Candidate
from disttune.strategy.stage import Probe

MODULES = (disttune, onnxruntime, onnx, numpy)
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


_NEED_DATA = frozenset(name for name, method in WEIGHT_METHODS.items() if method.uses_data)


class TrialWorker:
    """State of one trial process.

    Args:
        directory: for temporary files.
        handed: the user's functions themselves, where this is no process of its own.
    """

    def __init__(self, directory: Path | None = None, handed: Mapping[str, Any] | None = None):
        self._directory = directory
        self._handed = handed
        self._loaded: JobData | None = None
        self._engines: Engines | None = None
        self._probe_tools: ProbeTools | None = None
        self._statistics: StatisticsWork | None = None
        self._shared = SharedTensors()
        self._built: BuiltModel | None = None
        self._built_for = -1  # assignment
        self._evaluation: Evaluation | None = None
        self._asked: tuple[int | None, tuple[str, ...]] | None = None  # for whom, and keys of works

    def handle(self, message: object) -> object | None:
        """Do what the message asks; returns the answer, None when it needs none."""
        if self._evaluation is not None and not isinstance(message, EvaluateModel):
            self._evaluation.close()
        match message:
            case Prepare():
                return self._guarded("Prepare", lambda: self._prepare(message))
            case Load():
                return self._guarded("Load", lambda: self._load(message))
            case MeasureBaseline():
                return self._guarded("MeasureBaseline", self._baseline)
            case CollectFiles():
                return self._guarded("CollectFiles", lambda: FilesCollected(self._data.user_files()))
            case CalibrateBlocks():
                return self._guarded("CalibrateBlocks", lambda: self._calibrate(message))
            case FindStatistics():
                return self._guarded("FindStatistics", lambda: self._find_statistics(message))
            case MergeStatistics():
                return self._guarded("MergeStatistics", lambda: self._merge_statistics(message))
            case LoadStatistics():
                return self._guarded("LoadStatistics", lambda: self._load_statistics(message))
            case Export():
                return self._guarded("Export", lambda: self._export(message))
            case RunTask(item=Probe() as probe):
                return self._trial(message.assignment, lambda: self._probe(message.assignment, probe))
            case RunTask():
                return self._trial(message.assignment, lambda: self._build(message))
            case EvaluateModel():
                return self._trial(message.assignment, lambda: self._evaluate(message))
            case CombineScores():
                return self._trial(message.assignment, lambda: self._combine(message))
            case RunWork():
                return self._run_work(message.work)
            case LearnResults():
                return self._guarded("LearnResults", lambda: self._learn(message))
            case SkipModel():
                return None
            case _:
                raise InternalError(f"a trial process was sent {message!r}")

    def _guarded(self, task: str, do: Callable[[], object]) -> object:
        try:
            return do()
        except WorksMissingError as missing:
            return self._ask(None, missing.works)
        except DisttuneError as error:
            return Refused(task, str(error), error.exit_code)
        except Exception as error:
            if _is_no_room(error):
                return Refused(task, _no_room(error), 2)
            return Refused(task, f"a fault of disttune, please report it:\n{traceback.format_exc()}", 1)

    def _trial(self, assignment: int, do: Callable[[], object]) -> object:
        try:
            return do()
        except WorksMissingError as missing:
            return self._ask(assignment, missing.works)
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

    @property
    def _data(self) -> JobData:
        assert self._loaded is not None
        return self._loaded

    def _prepare(self, message: Prepare) -> Prepared:
        data = JobData.prepare(
            message.job, message.functions, message.n_threads, self._directory, self._handed
        )
        assert message.replica is not None
        nonce = fill(message.replica, data.replica_parts())
        data.move_into(message.replica)
        self._loaded = data
        self._the_engines()  # it refuses what it cannot do at all
        engine = find_engine(data.job.quantization.engine)
        return Prepared(
            summary=data.summary,
            engine_methods=engine.methods if data.feeds.feeds else engine.methods - _NEED_DATA,
            engine_approaches=engine.approaches,
            objectives=objectives(data.evaluators),
            digests=data.digests(message.functions.code_digest),
            versions={m.__name__: m.__version__ for m in MODULES} | {"python": platform.python_version()},
            warnings=data.warnings + _about_early_stop(data),
            n_blocks=self._statistics_work().n_blocks if self._needs_statistics() else 0,
            n_sample_blocks=n_blocks(data.evaluators) if message.job.runtime.split_trials else 0,
            nonce=nonce,
            replica_fd=message.replica.descriptor,
        )

    def _load(self, message: Load) -> Loaded:
        if self._loaded is None:  # rank 0 has loaded everything to check it
            self._loaded = JobData.load(message, self._directory, self._handed)
        self._data.n_threads = message.n_threads
        return Loaded()

    def _baseline(self) -> BaselineMeasured:
        data = self._data
        assert data.original is not None
        assert data.recorder is not None
        started_s = time.monotonic()
        try:
            with data.recorder, data.model(data.original) as model:
                values = evaluate(data.evaluators, model)
        except TrialError as error:
            raise UserCodeError(f"the float model could not be evaluated: {error}") from error
        return BaselineMeasured(values, time.monotonic() - started_s, data.late_code())

    # Statistics

    def _needs_statistics(self) -> bool:
        is_static = self._data.job.quantization.approach in ("static", "auto")
        return is_static and isinstance(self._the_engines().first, UsesStatistics)

    def _statistics_work(self) -> StatisticsWork:
        if self._statistics is None:
            data = self._data
            self._statistics = StatisticsWork(data.prepared, data.calibration(), data.job, data.n_threads)
        return self._statistics

    def _calibrate(self, message: CalibrateBlocks) -> BlocksMeasured:
        return BlocksMeasured(message.blocks, self._statistics_work().measure(message.blocks))

    def _find_statistics(self, message: FindStatistics) -> StatisticsMerged | StatisticsMissing:
        statistics, reason = self._statistics_work().find(message.folder)
        if statistics is None:
            return StatisticsMissing(reason)
        return self._share(statistics, message.file)

    def _merge_statistics(self, message: MergeStatistics) -> StatisticsMerged:
        return self._share(self._statistics_work().merge(message.parts, message.folder), message.file)

    def _share(self, statistics: Statistics, file: OpenFile | None) -> StatisticsMerged:
        assert file is not None
        return StatisticsMerged(file, fill(file, statistics.to_arrays()))

    def _load_statistics(self, message: LoadStatistics) -> StatisticsLoaded:
        statistics = Statistics.from_arrays(arrays(mapped(message.file)))
        engine = self._the_engines().first
        assert isinstance(engine, UsesStatistics)
        engine.use(statistics)
        return StatisticsLoaded()

    # Works

    def _ask(self, assignment: int | None, works: tuple[Work, ...]) -> object:
        """Ask for works; an engine that wants the same again right after it has learnt them never ends."""
        keys = tuple(work.key for work in works)
        if self._asked != (assignment, keys):
            self._asked = (assignment, keys)
            return NeedsWorks(assignment, works)
        text = f"a fault of disttune, please report it: {works[0].what} is asked for again and again"
        if assignment is None:
            return Refused("Export", text, 1)
        return Answer(assignment, Outcome("failed", reason=text))

    def _run_work(self, work: Work) -> WorkDone | WorkDied | Unusable:
        try:
            results = dict(self._the_engines().run(work))
            _check_plain(work, results)
            return WorkDone(work.key, results)
        except DisttuneError as error:
            return WorkDone(work.key, None, str(error), is_fault=isinstance(error, InternalError))
        except MemoryError:
            return WorkDied(work.key, "memory ran out (MemoryError)")
        except Exception as error:
            if _is_no_room(error):
                return Unusable(_no_room(error), exit_code=2)
            traceback.print_exc()  # into the rank's log
            text = f"a fault of disttune in {work.what}, please report it: {type(error).__name__}: {error}"
            return WorkDone(work.key, None, text, is_fault=True)

    def _learn(self, message: LearnResults) -> None:
        for work, results in message.results:
            try:
                self._the_engines().learn(
                    work, results if isinstance(results, str) else arrays(mapped(results))
                )
            except TrialError as error:  # it will be said again of the candidate
                sys.stderr.write(f"the result of {work.what} cannot be used: {error}\n")

    # Tasks

    def _build(self, message: RunTask) -> Built:
        assert isinstance(message.item, Candidate)
        self._data.original = None  # the baseline comes before all trials
        if self._built is None or self._built.digest != message.item.digest:
            self._built, self._built_for = None, -1  # never two of ours in memory
            self._built = self._new_model(message.item)
        built, self._built_for = self._built, message.assignment
        return Built(message.assignment, built.model_digest, built.size_bytes, built.n_quantized)

    def _evaluate(self, message: EvaluateModel) -> Answer | PartScored:
        built, evaluation = self._built_model(message.assignment), self._the_evaluation()
        if message.blocks is not None:
            return evaluation.part(message.assignment, built, message.packed, message.blocks)
        return Answer(message.assignment, evaluation.whole(built, message.packed, message.stop))

    def _combine(self, message: CombineScores) -> Answer:
        built = self._built_model(message.assignment)
        outcome = self._the_evaluation().combine(built, message.packed, message.scores)
        return Answer(message.assignment, outcome)

    def _built_model(self, assignment: int) -> BuiltModel:
        assert self._built is not None
        assert self._built_for == assignment
        return self._built

    def _the_evaluation(self) -> Evaluation:
        if self._evaluation is None:
            self._evaluation = Evaluation(self._data, self._shared)
        return self._evaluation

    def _export(self, message: Export) -> Exported:
        built = self._built  # left in hand: its evaluation may come next
        if built is None or built.digest != message.candidate.digest:
            built = self._new_model(message.candidate)
        source = built.source
        model = source.model() if isinstance(source, Blueprint) else source
        save_model(model, Path(message.path))
        report = check_target(model, self._data.job.model.target)
        return Exported(message.trial, built.model_digest, message.path, report.fits, str(report))

    def _new_model(self, candidate: Candidate) -> BuiltModel:
        engine, plain = self._the_engines().of(candidate)
        self._asked = None
        return built_model(engine, plain, candidate.digest, self._shared, self._data.job.model)

    def _the_engines(self) -> Engines:
        if self._engines is None:
            self._engines = Engines(self._data)
        return self._engines

    def _whole_model(self, candidate: Candidate) -> onnx.ModelProto:
        engine, plain = self._the_engines().of(candidate)
        self._asked = None
        return engine.build(plain)

    def _probe(self, assignment: int, probe: Probe) -> Answer:
        measure = find_probe(probe.kind)
        if self._probe_tools is None:
            data = self._data
            self._probe_tools = ProbeTools(
                data.prepared, data.summary, data.feeds, self._whole_model, data.model, data.job.folder
            )
        value = measure(self._probe_tools, probe.candidate, probe.arguments)
        return Answer(assignment, Outcome("ok", value=value))


def _about_early_stop(data: JobData) -> tuple[str, ...]:
    asked = data.job.tuning.early_stop
    if asked == "off":
        return ()
    if not data.is_watched:
        metrics = ", ".join(metrics_in_a_range() if asked == "test" else bounded_metrics())
        return (
            "tuning.early_stop: no trial ends early; that takes one evaluator, one of the metrics "
            f"{metrics}, and more than one block of samples",
        )
    if asked == "bound":
        return ()
    return (
        'tuning.early_stop = "test": a trial that would meet the goal, or be the best, is ended early with '
        f"probability {data.job.tuning.early_stop_risk:g} at most",
    )


def _check_plain(work: Work, results: Results) -> None:
    """Only what can be written and read again: numbers, and text of fixed width."""
    for name, array in results.items():
        if array.dtype.hasobject or numpy.dtype(array.dtype.str) != array.dtype:
            raise InternalError(f"{work.what}: result {name} is of type {array.dtype}, which cannot be kept")


def _is_no_room(error: Exception) -> bool:
    return isinstance(error, OSError) and error.errno in NO_ROOM


def _no_room(error: Exception) -> str:
    return (
        f"temporary files cannot be written to {tempfile.gettempdir()} ({error}). Make room or set TMPDIR to "
        "another place, then run the same command again."
    )
