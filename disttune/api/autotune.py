"""`autotune()`: accuracy-aware quantization tuning from a script, on one process or under mpirun.

Light: the rest is imported while the trial process imports what it needs.
"""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from disttune.runtime.early_process import end_early, start_early

if TYPE_CHECKING:
    import onnx

    from disttune.api.tuned_model import TunedModel
    from disttune.config.job import Job
    from disttune.config.tuning_config import TuningConfig


def autotune(
    model: "str | os.PathLike[str] | onnx.ModelProto | None",
    tune_config: "TuningConfig | Job | Mapping[str, Any] | str | os.PathLike[str]",
    eval_fn: Any = None,
    calibration_data_reader: Any = None,
    *,
    run_directory: str | os.PathLike[str] | None = None,
    fresh: bool = False,
    log_format: Literal["plain", "json", "quiet"] = "plain",
) -> "TunedModel":
    """Find the quantized model that meets the accuracy goal.

    Under mpirun it is collective: every rank calls it with the same arguments and gets the same result;
    the ranks work together. The evaluation runs in processes of its own (a crash or a hang of it costs one
    trial), unless `runtime.isolation` is "none". The same call again goes on where an earlier one ended.

    Args:
        model: the float model, a path or a ModelProto; None when a job file names it.
        tune_config: a `TuningConfig`, or a job: the path of a job file, or its sections as a dict, where a
            `TuningCriterion` and an `AccuracyCriterion` may stand for "tuning" and "accuracy".
        eval_fn: a function that takes the model (usable as an InferenceSession and as a path) and returns
            its metric; or a dict {"eval_fn", "weight", "name", "higher_is_better"}; or a list of these.
            None takes what the job's `evaluation` section says.
        calibration_data_reader: has `get_next()` as onnxruntime's, or is an iterable of feeds
            {input: array}, or a function that gives one. It is read once, on rank 0.
        run_directory: journal, trial table and best model are kept there. None: `disttune_run`, or where that
            holds the results of another job `disttune_run_2` and so on, so that each of several searches in
            a script goes on with its own.
        fresh: start anew where the directory holds a journal.
        log_format: "plain", "json" or "quiet".
    Returns:
        The best model, even when it misses the goal (`result.status` tells).
    Raises:
        InputError: something given is wrong; the message names cause and mend.
        DisttuneError: no trial gave a metric, or the job was interrupted; the same on every rank.
    """
    if _has_trial_process(tune_config):
        start_early()
    try:
        from disttune.api.autotune_job import run

        return run(model, tune_config, eval_fn, calibration_data_reader, run_directory, fresh, log_format)
    finally:
        end_early()


def _has_trial_process(tune_config: Any) -> bool:
    """Whether trials run elsewhere, as far as can be told at once; if not, the process is ended again."""
    section = tune_config.get("runtime") if isinstance(tune_config, Mapping) else None
    given = section if section is not None else getattr(tune_config, "runtime", None)
    isolation = given.get("isolation") if isinstance(given, Mapping) else getattr(given, "isolation", None)
    return bool(isolation != "none")
