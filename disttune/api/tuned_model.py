"""`TunedModel`: the best model of a job, to be run, saved and looked at."""

import tempfile
import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import BinaryIO

import onnx

from disttune.config.errors import DisttuneError
from disttune.evaluate.model import QuantizedModel
from disttune.runtime.result import TuningResult


class TunedModel(QuantizedModel):
    """What `autotune` returns, on every rank: the best model, whether it meets the goal or not.

    Use it as an `onnxruntime.InferenceSession` (`run`, `get_inputs` ...), as a path, or `save(path)` it;
    `proto` is the ModelProto and `result` everything of result.json and the trial table.
    """

    def __init__(self, load: Callable[[], onnx.ModelProto], result: TuningResult, providers: Sequence[str]):
        super().__init__(load, n_threads=0, providers=providers)
        self.result = result


def tuned_model_of(
    files: Mapping[str, bytes | BinaryIO], result: TuningResult, providers: Sequence[str]
) -> TunedModel:
    """The handle for a best model given as its files, which are read when the model is first used.

    Args:
        files: by name; contents, or open files, which are closed with the handle.
        result: of the job.
        providers: of the handle's session.
    Raises:
        DisttuneError: no trial gave a model with a metric.
    """
    if "best.onnx" not in files and result.status == "interrupted":
        error = DisttuneError("interrupted before a trial had a metric; the same call again goes on")
        error.exit_code = result.exit_code
        raise error
    if "best.onnx" not in files:
        reasons = (
            "; ".join(dict.fromkeys(t.reason.splitlines()[0] for t in result.trials if t.reason))
            or "no trial ran"
        )
        raise DisttuneError(f"no trial has a metric, so there is no best model: {reasons}")
    tuned = TunedModel(partial(_read, files), result, providers)
    for content in files.values():
        if not isinstance(content, bytes):
            weakref.finalize(tuned, content.close)
    return tuned


def _read(files: Mapping[str, bytes | BinaryIO]) -> onnx.ModelProto:
    if list(files) == ["best.onnx"]:
        return onnx.load_model_from_string(_content(files["best.onnx"]))
    with tempfile.TemporaryDirectory(prefix="disttune-best-") as folder:
        for name, content in files.items():
            Path(folder, Path(name).name).write_bytes(_content(content))
        return onnx.load(Path(folder, "best.onnx"))


def _content(file: bytes | BinaryIO) -> bytes:
    if isinstance(file, bytes):
        return file
    file.seek(0)
    return file.read()
