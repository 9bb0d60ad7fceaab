"""What a trial process holds of a job: the models, the calibration feeds, the evaluators.

Rank 0's process makes it from the user's files and checks everything; every other one gets it from the
replica and loads the user's code alone.
"""

import gc
import hashlib
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cloudpickle
import onnx

import disttune
from disttune.config.errors import InputError, ModelError
from disttune.config.job import Job, ModelSection
from disttune.evaluate.data import Feeds, load_feeds
from disttune.evaluate.early_stop import StopTest, can_be_watched
from disttune.evaluate.evaluators import (
    Evaluator,
    build_evaluators,
    specs_from_functions,
    specs_from_section,
)
from disttune.evaluate.model import QuantizedModel, check_providers
from disttune.evaluate.user_code import code_file, files_digest
from disttune.evaluate.user_files import FileRecorder, collect_files
from disttune.quantize.builder.writer import Blueprint
from disttune.quantize.digest import model_digest
from disttune.quantize.engine import Engine, EngineSettings, check_recipes, find_engine
from disttune.quantize.excluded_tensors import excluded_tensors
from disttune.quantize.freed_memory import give_back_freed
from disttune.quantize.graph import prepare, read_model
from disttune.quantize.half_kernels import lacking_kernels
from disttune.quantize.shared_tensors import SharedTensors
from disttune.quantize.summary import input_specs, summarize
from disttune.quantize.tensor_memory import TensorMemory
from disttune.quantize.topology import default_opset
from disttune.runtime.messages import OpenFile
from disttune.runtime.model_parts import model_from, model_parts, over_replica
from disttune.runtime.replica import Replica
from disttune.runtime.replica_shelf import ReplicaShelf
from disttune.runtime.start_messages import Functions, Load
from disttune.runtime.statistics_work import mapped
from disttune.space.capability import load_capability
from disttune.space.float_types import half_fallbacks, half_ops
from disttune.space.summary import ModelSummary

OWN_FILES = [p for p in Path(disttune.__file__).parent.iterdir() if p.name != "examples"]
MAX_DIGESTED_BYTES = 2**30
Handed = Mapping[str, Any]


@dataclass
class JobData:
    """Everything but the engine's own state.

    Args:
        job: with its folder where this process finds the user's files.
        functions: what `autotune()` was handed, unpickled.
        n_threads: of a run.
        prepared: the float model that candidates are made from.
        summary: of it.
        feeds: all calibration samples.
        evaluators: ready to be called.
        directory: for temporary files.
        original: the user's model; on rank 0 only.
        recorder: sees which files the user's code reads; on rank 0 only.
        reference: float outputs for the metrics held against them, by "evaluator/block".
        warnings: to be told once.
        memory: holds the weights of the models.
        shelf: of this node, for what is made of the weights.
    """

    job: Job
    functions: Handed
    n_threads: int
    prepared: onnx.ModelProto
    summary: ModelSummary
    feeds: Feeds
    evaluators: tuple[Evaluator, ...]
    directory: Path | None = None
    original: onnx.ModelProto | None = None
    recorder: FileRecorder | None = None
    reference: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    memory: TensorMemory = field(default_factory=TensorMemory)
    shelf: ReplicaShelf | None = None
    _digested: set[Path] = field(default_factory=set)  # files of the user's code

    @classmethod
    def prepare(
        cls, job: Job, functions: Functions, n_threads: int, directory: Path | None, handed: Handed | None
    ) -> "JobData":
        """Read and check everything the job names; called on rank 0.

        Raises:
            InputError: something the user gave cannot be used.
        """
        check_providers(job.model.providers)
        memory = TensorMemory()
        original = read_model(job.model.path, memory)
        recorder = FileRecorder(job.folder, exclude=OWN_FILES)
        with recorder:
            unpacked = _unpacked(functions, handed)
            feeds = _read_feeds(job, unpacked, original)
            evaluators = _make_evaluators(job, unpacked, original)
        warnings = list(feeds.warnings)
        recipes = job.quantization.fixed_recipes
        prepared = prepare(original, warnings.append, directory, recipes=recipes)
        if error := too_new(prepared, job.model):
            raise ModelError(f"{job.model.path}, prepared for quantizing, {error}")
        summary = summarize(prepared, original)
        _check_half_types(job, summary)
        data = cls(
            job, unpacked, n_threads, prepared, summary, feeds, evaluators, directory, original, recorder
        )
        data.memory = memory
        data.reference = data._reference_outputs()
        data.evaluators = _with_reference(evaluators, data.reference)
        data.warnings = tuple(warnings)
        return data

    @classmethod
    def load(cls, message: Load, directory: Path | None, handed: Handed | None) -> "JobData":
        """Take over what rank 0 has prepared.

        Raises:
            InputError: the user's code cannot be loaded here.
        """
        job = message.job.moved_to(message.folder)
        unpacked = _unpacked(message.functions, handed)
        replica = mapped(message.replica)
        memory = TensorMemory()
        prepared = model_from(replica, memory)
        feeds = Feeds.from_arrays(_below(replica, "feeds/"))
        evaluators = _with_reference(_make_evaluators(job, unpacked, prepared), _below(replica, "reference/"))
        n_threads, summary = message.n_threads, message.summary
        data = cls(job, unpacked, n_threads, prepared, summary, feeds, evaluators, directory)
        data.memory, data.shelf = memory, ReplicaShelf.open(message.replica)
        return data

    def calibration(self, size: int | None = None) -> Feeds:
        """The samples to calibrate with: so many, or those of the job's first size."""
        return self.feeds.head(size or self.job.calibration.samples[0]) if self.feeds.feeds else self.feeds

    def engine(self, size: int) -> Engine:
        """The job's engine over so many calibration samples; refuses what it cannot do at all."""
        quantization = self.job.quantization
        check_recipes(quantization.engine, quantization.recipes)
        capability = load_capability(self.job.model.target)
        settings = EngineSettings(
            providers=tuple(self.job.model.providers),
            n_threads=self.n_threads,
            placement=quantization.placement or capability.placement,
            directory=self.directory,
            target=self.job.model.target,
            block_samples=self.job.calibration.block_samples,
            weight_only_format=quantization.weight_only_format or capability.weight_only_format,
            accuracy_level=quantization.accuracy_level,
            exclude=excluded_tensors(quantization.exclude_tensors or (), self.prepared, self.original),
            shelf=self.shelf,
            half_ops=half_ops(self.summary, capability, quantization),
            tell=lambda line: sys.stderr.write(f"{line}\n"),  # into the rank's log
        )
        feeds = self.calibration(size).feeds
        return find_engine(quantization.engine)(self.prepared, self.summary, feeds, settings)

    @property
    def packs_weights(self) -> bool:
        """Whether sessions pack weights, as they do by default, unless one is asked to."""
        return self.job.runtime.memory != "shared"

    @property
    def is_watched(self) -> bool:
        """Whether trials may end early."""
        asked = self.job.tuning.early_stop
        return asked != "off" and can_be_watched(self.evaluators, by_test=asked == "test")

    @property
    def stop_test(self) -> StopTest | None:
        """By which they may; None: by certain bounds."""
        tuning = self.job.tuning
        return StopTest(tuning.early_stop_risk, tuning.seed) if tuning.early_stop == "test" else None

    def model(
        self,
        source: onnx.ModelProto | Blueprint,
        shared: SharedTensors | None = None,
        packed: bool | None = None,
    ) -> QuantizedModel:
        """What an evaluation gets; `packed` is as the job says when None."""
        packed = self.packs_weights if packed is None else packed
        providers = self.job.model.providers
        return QuantizedModel(source, self.n_threads, providers, self.directory, shared, packed)

    def replica_parts(self) -> dict[str, Any]:
        """What other ranks need, by name."""
        parts = model_parts(self.prepared)
        parts |= {f"feeds/{name}": array for name, array in self.feeds.to_arrays().items()}
        return parts | {f"reference/{name}": array for name, array in self.reference.items()}

    def move_into(self, file: OpenFile) -> None:
        """Use what the replica holds instead of an own copy, now that it is filled."""
        replica = mapped(file)
        memory, self.shelf = TensorMemory(), ReplicaShelf.open(file)
        self.prepared = model_from(replica, memory)
        self.feeds = Feeds.from_arrays(_below(replica, "feeds/"))
        if self.original is not None:
            self.original = over_replica(self.original, replica, memory)
        self.memory = memory  # only now: what preparing has changed was read from the one before
        gc.collect()  # the models that were made on the way hang in cycles
        give_back_freed()

    def digests(self, code_digest: str) -> dict[str, str]:
        """Of "model", "data" and "code"; `code_digest` is that of functions that come from a script."""
        assert self.original is not None
        assert self.recorder is not None
        code = set(self._code_files())
        data = set(self._data_files())
        data |= {p for p in self.recorder.paths if p.suffix != ".py" and p != self.job.model.path}
        if "eval_fn" not in self.functions:  # whose digest holds what it uses, and no more of the script
            code |= {p for p in self.recorder.paths if p.suffix == ".py"}
        self._digested = code
        return {
            "model": model_digest(self.original),
            "data": _joined(self.feeds.digest, self._digest_below(data)),
            "code": _joined(code_digest, self._digest_below(code)),
        }

    def late_code(self) -> tuple[str, ...]:
        """Files of the user's code that were imported after `digests` were made, below the job's folder."""
        if self.recorder is None or "eval_fn" in self.functions:
            return ()
        late = {p for p in self.recorder.paths if p.suffix == ".py"} - self._digested
        return tuple(sorted(os.path.relpath(path, self.job.folder) for path in late))

    def user_files(self) -> dict[str, bytes]:
        """The user's files that other nodes need, by path below the job's folder."""
        assert self.recorder is not None
        named = [*self._code_files(), *self._data_files()]
        return collect_files(named, self.recorder.paths, self.job.evaluation.files, self.job.folder)

    def _code_files(self) -> list[Path]:
        """Files of the functions that trial processes call."""
        functions = [e.function for e in self.job.evaluation.entries] + [self.job.calibration.loader]
        kwargs = self.job.tuning.strategy_kwargs.values()
        functions += [v for v in kwargs if isinstance(v, str) and ".py:" in v]
        return [code_file(f, self.job.folder) for f in functions if f]

    def _data_files(self) -> list[Path]:
        return [e.data for e in self.job.evaluation.entries if e.data]

    def _digest_below(self, files: Iterable[Path]) -> str:
        """Over files by their place in the job's folder."""
        return files_digest({os.path.relpath(path, self.job.folder): _content(path) for path in files})

    def _reference_outputs(self) -> dict[str, Any]:
        """Float outputs for the metrics that are held against them, computed once for all ranks."""
        assert self.original is not None
        outputs = {}
        for i, evaluator in enumerate(self.evaluators):
            if evaluator.needs_reference:
                with self.model(self.original) as model:
                    for j, array in enumerate(evaluator.reference_outputs(model)):
                        outputs[f"{i}/{j}"] = array
        return outputs


def _unpacked(functions: Functions, handed: Handed | None) -> Handed:
    for place in functions.sys_path:
        if place not in sys.path:
            sys.path.append(place)
    if handed is not None:
        return handed
    unpickled: Handed = cloudpickle.loads(functions.pickled) if functions.pickled else {}
    return unpickled


def _read_feeds(job: Job, functions: Handed, model: onnx.ModelProto) -> Feeds:
    given = functions.get("feeds")
    source = given if given is not None else job.calibration.loader or job.calibration.data
    if source is None:
        return Feeds((), None, 0)
    outputs = [o.name for o in model.graph.output]
    return load_feeds(source, job.folder, input_specs(model), max(job.calibration.samples), outputs)


def _check_half_types(job: Job, summary: ModelSummary) -> None:
    """Refuse a float type that the evaluation could not run."""
    capability, types = load_capability(job.model.target), {op.name: op.op_type for op in summary.ops}
    held = half_ops(summary, capability, job.quantization)
    asked = {*held.items(), *half_fallbacks(summary, capability, job.quantization).items()}
    for kind in sorted({kind for _, kind in asked}):
        lacking = lacking_kernels({types[op] for op, k in asked if k == kind}, kind, job.model.providers)
        if lacking:
            raise InputError(
                f"[quantization] {kind}: onnxruntime computes no {', '.join(lacking)} in it on "
                f"{', '.join(job.model.providers)}. Take float16, or leave these ops in float32."
            )


def _make_evaluators(job: Job, functions: Handed, model: onnx.ModelProto) -> tuple[Evaluator, ...]:
    if "eval_fn" in functions:
        specs = specs_from_functions(functions["eval_fn"])
    else:
        specs = specs_from_section(job.evaluation)
    return build_evaluators(specs, job.folder, input_specs(model), [o.name for o in model.graph.output])


def _with_reference(evaluators: tuple[Evaluator, ...], outputs: Mapping[str, Any]) -> tuple[Evaluator, ...]:
    ready = []
    for i, evaluator in enumerate(evaluators):
        if evaluator.needs_reference:
            blocks = [outputs[f"{i}/{j}"] for j in range(len(evaluator.inputs))]
            ready.append(evaluator.with_reference(blocks))
        else:
            ready.append(evaluator)
    return tuple(ready)


def too_new(model: onnx.ModelProto, limits: ModelSection) -> str | None:
    """What of a model is newer than the job allows, or None."""
    opset = default_opset(model)
    if limits.max_opset is not None and opset > limits.max_opset:
        return f"has opset {opset}; model.max_opset is {limits.max_opset}"
    if limits.max_ir_version is not None and model.ir_version > limits.max_ir_version:
        return f"has IR version {model.ir_version}; model.max_ir_version is {limits.max_ir_version}"
    return None


def _content(path: Path) -> bytes:
    """A file's bytes; its size alone for one that takes long to read."""
    n_bytes = path.stat().st_size
    return path.read_bytes() if n_bytes <= MAX_DIGESTED_BYTES else str(n_bytes).encode()


def _joined(*digests: str) -> str:
    return hashlib.blake2b("/".join(digests).encode(), digest_size=16).hexdigest()


def _below(replica: Replica, prefix: str) -> dict[str, Any]:
    return {n.removeprefix(prefix): replica.array(n) for n in replica.names() if n.startswith(prefix)}
