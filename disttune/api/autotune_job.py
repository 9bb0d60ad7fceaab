"""What `autotune()` does: makes a job of what a script hands it, runs it, and gives the best model back."""

import importlib
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, get_args

from disttune.api.base_tuning.criteria import as_section, directed
from disttune.api.functions import drain, pack
from disttune.api.tune_job import DEFAULT_RUN_DIRECTORY, LogFormat, dismiss, serve, tune_job
from disttune.config.algorithms import config_from_dict
from disttune.config.errors import InputError, RunDirectoryError, UserCodeError
from disttune.config.job import Job
from disttune.config.job_file import job_from_dict, load_job
from disttune.config.toml_text import toml_value
from disttune.config.tuning_config import TuningConfig
from disttune.runtime.result import TuningResult
from disttune.runtime.run_directory import RunDirectory
from disttune.runtime.transport import Transport
from disttune.runtime.world import join_world

if TYPE_CHECKING:
    from disttune.api.tuned_model import TunedModel


def run(
    model: Any,
    tune_config: Any,
    eval_fn: Any,
    reader: Any,
    run_directory: Any,
    fresh: bool,
    log_format: LogFormat,
) -> "TunedModel":
    """See `autotune`."""
    transport = join_world()
    try:
        handed = {"eval_fn": directed(eval_fn, tune_config)} if eval_fn is not None else {}
        if transport.rank != 0:
            handle = _Handle()
            goodbye = serve(transport, handed or None)
            assert isinstance(goodbye.result, TuningResult)
            return handle.of(goodbye.model or {}, goodbye.result, goodbye.providers)
        return _lead(transport, model, tune_config, handed, reader, run_directory, fresh, log_format)
    finally:
        transport.close()


def _lead(
    transport: Transport,
    model: Any,
    tune_config: Any,
    handed: dict[str, Any],
    reader: Any,
    run_directory: Any,
    fresh: bool,
    log_format: LogFormat,
) -> "TunedModel":
    try:
        run = _run_directory(run_directory, log_format)
        job = _job_of(model, tune_config, run.path)
        _require_functions(job, "eval_fn" in handed, reader is not None)
        feeds = drain(reader, max(job.calibration.samples))
        if feeds is not None:
            handed["feeds"] = feeds
        inline = job.runtime.isolation == "none"
        functions = pack(handed, inline) if handed else None
    except Exception as error:
        dismiss(transport, getattr(error, "exit_code", 1), str(error), type(error).__name__)
        raise
    handle = _Handle()
    result = tune_job(
        job, transport, run, fresh, log_format, functions, handed if inline else None, share_model=True
    )
    return handle.of(held_files(run.path), result, tuple(job.model.providers))


class _Handle:
    """Makes what `autotune` returns; what that needs is imported while the search runs."""

    def __init__(self) -> None:
        self._imported = threading.Thread(
            target=importlib.import_module, args=("disttune.api.tuned_model",), daemon=True
        )
        self._imported.start()

    def of(
        self, files: Mapping[str, bytes | BinaryIO], result: TuningResult, providers: tuple[str, ...]
    ) -> "TunedModel":
        self._imported.join()
        from disttune.api.tuned_model import tuned_model_of

        return tuned_model_of(files, result, providers)


def held_files(folder: Path) -> dict[str, BinaryIO]:
    """The best model's files by name, held open: another job may put its own in their place."""
    return {file.name: file.open("rb") for file in folder.glob("best.onnx*")}


def _run_directory(run_directory: Any, log_format: Any) -> RunDirectory:
    if log_format not in get_args(LogFormat):
        raise InputError(f"log_format is {log_format!r}; expected one of {', '.join(get_args(LogFormat))}")
    if run_directory is None:
        return RunDirectory(DEFAULT_RUN_DIRECTORY, numbered=True)
    if not isinstance(run_directory, str | os.PathLike):
        raise InputError(f"run_directory is a {type(run_directory).__name__}; expected a path")
    return RunDirectory(Path(run_directory))


def _job_of(model: Any, tune_config: Any, path: Path) -> Job:
    file = None if model is None else str(_model_path(model, path))
    if isinstance(tune_config, str | os.PathLike):
        overrides = [] if file is None else [f"model.path={toml_value(file)}"]
        return load_job(Path(tune_config), overrides, functions_given=True)
    if isinstance(tune_config, Job):
        data = tune_config.to_dict()
    elif isinstance(tune_config, TuningConfig):
        data = _sections(tune_config)
    elif isinstance(tune_config, Mapping):
        data = {name: as_section(section) for name, section in tune_config.items()}
    else:
        raise InputError(
            f"tune_config is a {type(tune_config).__name__}; expected a TuningConfig, or a job: the path of "
            "its file, or its sections as a dict"
        )
    section = data.get("model", {})
    if file is not None and isinstance(section, Mapping):
        data["model"] = {**section, "path": file}
    return job_from_dict(data, Path.cwd(), functions_given=True)


def _require_functions(job: Job, has_eval_fn: bool, has_reader: bool) -> None:
    if not has_eval_fn and not job.evaluation.entries:
        raise UserCodeError("eval_fn is missing: autotune needs it to tell how good a model is")
    if has_reader or job.calibration.given:
        return
    configs = job.tuning.strategy_kwargs.get("configs")
    if configs is None:
        approach: str = job.quantization.approach
        needing = [] if approach in ("dynamic", "weight_only") else [approach]
    else:
        needing = [c.algorithm for c in map(config_from_dict, configs) if c.needs_data]
    if needing:
        raise InputError(
            f"calibration_data_reader is missing: {needing[0]} quantization measures the model on data "
            "(DynamicQuantConfig, RTNConfig and HQQConfig need none)"
        )


def _sections(config: TuningConfig) -> dict[str, Any]:
    """The job sections a `TuningConfig` stands for."""
    configs = config.configs()
    sizes = {size for c in configs if (size := getattr(c, "calibration_sampling_size", None)) is not None}
    if len(sizes) > 1:
        raise InputError(
            f"TuningConfig: calibration_sampling_size holds {sorted(sizes)}; give one size for all configs"
        )
    approaches = frozenset[str]().union(*(c.approaches for c in configs)) - {"float"}
    others = approaches - {"weight_only"}
    approach = "auto" if len(others) > 1 else next(iter(others or approaches))
    return {
        "tuning": {
            "strategy": config.strategy,
            "strategy_kwargs": {"configs": [c.to_dict() for c in configs]},
            "max_trials": config.max_trials,
            "timeout": config.timeout,
        },
        "accuracy": {"tolerable_loss": config.tolerable_loss},
        "quantization": {"approach": approach},
        "calibration": {"samples": max(sizes)} if sizes else {},
    }


def _model_path(model: Any, path: Path) -> Path:
    """The model's file; a ModelProto is written below the run directory first, beside those of other jobs."""
    if isinstance(model, str | os.PathLike):
        return Path(model).absolute()
    if type(model).__name__ != "ModelProto":
        raise InputError(f"model is a {type(model).__name__}; expected a path or a ModelProto")
    from disttune.quantize.digest import model_digest
    from disttune.quantize.export import save_model

    file = path / f"input-{model_digest(model)[:12]}.onnx"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        save_model(model, file)
    except OSError as error:
        raise RunDirectoryError(
            f"run_directory {path}: the model cannot be written there: {error.strerror}; give another"
        ) from error
    return file
