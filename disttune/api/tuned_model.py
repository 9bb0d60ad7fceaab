"""`TunedModel`: the best model of a job, to be run, saved and looked at."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import onnx

from disttune.config.errors import DisttuneError
from disttune.evaluate.model import QuantizedModel
from disttune.runtime.result import TuningResult


class TunedModel(QuantizedModel):
    """What `autotune` returns, on every rank: the best model, whether it meets the goal or not.

    Use it as an `onnxruntime.InferenceSession` (`run`, `get_inputs` ...), as a path, or `save(path)` it;
    `proto` is the ModelProto and `result` everything of result.json and the trial table.
    """

    def __init__(self, proto: onnx.ModelProto, result: TuningResult, providers: Sequence[str]):
        super().__init__(proto, n_threads=0, providers=providers)
        self.result = result


def tuned_model_of(files: dict[str, bytes], result: TuningResult, providers: Sequence[str]) -> TunedModel:
    """The handle for a best model given as the bytes of its files.

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
    with tempfile.TemporaryDirectory(prefix="disttune-best-") as folder:
        for name, content in files.items():
            Path(folder, Path(name).name).write_bytes(content)
        return TunedModel(onnx.load(Path(folder, "best.onnx")), result, providers)
