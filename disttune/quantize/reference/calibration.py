"""Ranges of activations, by onnxruntime's own calibrators: one for each method, fed with all feeds.

The calibrators are used as `quantize_static` uses them, but for three things:
1. the histogram ones get all feeds of a tensor as one flat array (the same histogram), because they
   cannot stack feeds of different shapes;
2. they get the tensors in portions, because they keep every activation in memory;
3. they are made directly, because `create_calibrator` opens a session with as many threads as the
   machine has cores, and its percentile is symmetric unless told otherwise.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import ModelProto
from onnxruntime.quantization.calibrate import (
    CalibraterBase,
    DistributionCalibrater,
    EntropyCalibrater,
    HistogramCalibrater,
    MinMaxCalibrater,
    PercentileCalibrater,
    TensorData,
)

from disttune.config.errors import TrialError
from disttune.config.schemes import Scheme
from disttune.quantize.engine import EngineSettings
from disttune.quantize.preprocess import first_line
from disttune.quantize.size import LARGE_BYTES, model_bytes

# The values that `create_calibrator` gives.
_CALIBRATERS: dict[str, tuple[type[CalibraterBase], dict[str, Any]]] = {
    "minmax": (MinMaxCalibrater, {}),
    "entropy": (EntropyCalibrater, {"num_bins": 128, "num_quantized_bins": 128}),
    "percentile": (PercentileCalibrater, {"num_bins": 2048}),
    "distribution": (DistributionCalibrater, {"num_bins": 2048, "scenario": "same"}),
}
_PORTION_BYTES = 2**29
Feed = Mapping[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class _Key:
    """What ranges depend on. Only percentile looks at whether a scheme is symmetric."""

    method: str
    parameter: float | None
    symmetric: bool

    @classmethod
    def of(cls, scheme: Scheme) -> "_Key":
        return cls(scheme.method, scheme.parameter, scheme.symmetric and scheme.method == "percentile")

    def options(self) -> dict[str, Any]:
        if self.method != "percentile":
            return {}
        return {"percentile": self.parameter, "symmetric": self.symmetric}


class Calibration:
    """Ranges by method and tensor; each is computed once.

    Args:
        model: float model with the types of its tensors.
        feeds: calibration inputs.
        settings: providers and threads.
        portion_bytes: about how much memory the activations of one portion of tensors may take.
    """

    def __init__(
        self,
        model: ModelProto,
        feeds: Sequence[Feed],
        settings: EngineSettings,
        portion_bytes: int = _PORTION_BYTES,
    ):
        self._model = model
        self._feeds = [dict(feed) for feed in feeds]
        self._settings = settings
        self._portion_bytes = portion_bytes
        self._ranges: dict[tuple[_Key, str], TensorData | None] = {}  # None: it cannot be observed

    def ranges(self, schemes: Mapping[str, Scheme]) -> dict[str, TensorData]:
        """Range of each tensor by the method of its scheme, in the order given.

        Args:
            schemes: tensor name to scheme; tensors that onnxruntime cannot observe are left out.
        Raises:
            TrialError: there are no feeds, a run failed, or a tensor holds NaN or infinity.
        """
        if not self._feeds:
            raise TrialError("static quantization needs calibration feeds, and there are none")
        keys = {name: _Key.of(scheme) for name, scheme in schemes.items()}
        for key in dict.fromkeys(keys.values()):
            missing = [name for name, k in keys.items() if k == key and (key, name) not in self._ranges]
            if missing:
                found = self._collect(key, missing)
                self._ranges.update(((key, name), found.get(name)) for name in (*found, *missing))
        ranges = {name: data for name, key in keys.items() if (data := self._ranges[key, name]) is not None}
        for name, data in ranges.items():
            if not np.all(np.isfinite(data.range_value)):
                raise TrialError(
                    f'calibration: tensor "{name}" holds NaN or infinity. Leave the ops around it in float32.'
                )
        return ranges

    def _collect(self, key: _Key, names: Sequence[str]) -> dict[str, TensorData]:
        with tempfile.TemporaryDirectory(prefix="disttune-calibrate-") as folder:
            calibrater = self._calibrater(key, Path(folder))
            try:
                if isinstance(calibrater, HistogramCalibrater):
                    self._collect_histograms(calibrater, names)
                else:  # small: a minimum and a maximum of every tensor of the model
                    calibrater.collect_data(_Reader(self._feeds))
                return dict(calibrater.compute_data().items())
            except Exception as error:
                raise TrialError(f"calibration with {key.method} failed: {first_line(error)}") from error

    def _calibrater(self, key: _Key, folder: Path) -> CalibraterBase:
        """A calibrator with an open session over the model with its added outputs."""
        large = model_bytes(self._model) >= LARGE_BYTES
        source = folder / "model.onnx"
        copy = ModelProto()
        copy.CopyFrom(self._model)  # saving with external data empties the tensors
        onnx.save_model(copy, source, save_as_external_data=large, location="model.onnx.data")
        kind, options = _CALIBRATERS[key.method]
        calibrater = kind(
            source,
            augmented_model_path=str(folder / "augmented.onnx"),
            use_external_data_format=large,
            **options,
            **key.options(),
        )
        calibrater.augment_graph()
        calibrater.infer_session = self._session(folder / "augmented.onnx")
        return calibrater

    def _session(self, path: Path) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 4
        options.intra_op_num_threads = self._settings.n_threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        return onnxruntime.InferenceSession(str(path), options, providers=list(self._settings.providers))

    def _collect_histograms(self, calibrater: HistogramCalibrater, names: Sequence[str]) -> None:
        session = calibrater.infer_session
        observed = [name for name in names if name in calibrater.tensors_to_calibrate]
        for portion in self._portions(session, observed):
            calibrater.infer_session = _FlatRuns(session, portion)
            calibrater.collect_data(_Reader([self._feeds]))

    def _portions(self, session: onnxruntime.InferenceSession, names: Sequence[str]) -> Iterator[list[str]]:
        """Tensors in groups whose activations over all feeds fit; sizes are judged by the first feed."""
        first = session.run(list(names), self._feeds[0])
        growth = sum(map(_n_values, self._feeds)) / max(1, _n_values(self._feeds[0]))
        portion: list[str] = []
        size = 0.0
        for name, array in zip(names, first, strict=True):
            if portion and size + array.nbytes * growth > self._portion_bytes:
                yield portion
                portion, size = [], 0.0
            portion.append(name)
            size += array.nbytes * growth
        if portion:
            yield portion


def _n_values(feed: Feed) -> int:
    return sum(array.size for array in feed.values())


class _Reader:
    """A calibration data reader over a list."""

    def __init__(self, items: Sequence[Any]):
        self._items = iter(items)

    def get_next(self) -> Any:
        return next(self._items, None)


class _FlatRuns:
    """Stands for a session: one `run` takes all feeds and gives each tensor's values as one flat array."""

    def __init__(self, session: onnxruntime.InferenceSession, names: Sequence[str]):
        self._session = session
        self._names = list(names)

    def get_inputs(self) -> list[Any]:
        inputs: list[Any] = self._session.get_inputs()
        return inputs

    def get_outputs(self) -> list[Any]:
        by_name = {output.name: output for output in self._session.get_outputs()}
        return [by_name[name] for name in self._names]

    def run(self, _: None, feeds: Sequence[Feed]) -> list[np.ndarray]:
        parts: list[list[np.ndarray]] = [[] for _ in self._names]
        for feed in feeds:
            for part, array in zip(parts, self._session.run(self._names, feed), strict=True):
                part.append(array.ravel())
        return [np.concatenate(part) for part in parts]
