"""Engines, configs and onnxruntime's own quantizers for the tests of this folder."""

import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import ModelProto, numpy_helper
from onnxruntime.quantization import CalibrationMethod, QuantType, quantize_dynamic, quantize_static

from disttune.config.recipes import RecipeValue
from disttune.config.schemes import FLOAT32, OpConfig, Scheme
from disttune.quantize.digest import serialize
from disttune.quantize.engine import Engine, EngineSettings, find_engine
from disttune.quantize.graph import prepare
from disttune.quantize.quiet import quiet_onnxruntime
from disttune.quantize.summary import summarize
from disttune.space.candidate import Candidate

TYPES = {
    "int8": QuantType.QInt8,
    "uint8": QuantType.QUInt8,
    "int16": QuantType.QInt16,
    "uint16": QuantType.QUInt16,
}
METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "entropy": CalibrationMethod.Entropy,
    "percentile": CalibrationMethod.Percentile,
    "distribution": CalibrationMethod.Distribution,
}
Feeds = Sequence[dict[str, np.ndarray]]


def static(
    weight: str = "int8",
    activation: str = "uint8",
    per_channel: bool = True,
    method: str = "minmax",
    parameter: float | None = None,
    symmetric: bool = False,
    has_weight: bool = True,
) -> OpConfig:
    """A static config; weights are symmetric when they are signed."""
    granularity = "per_channel" if per_channel else "per_tensor"
    return OpConfig(
        "static",
        Scheme(weight, weight.startswith("int"), granularity) if has_weight else None,
        Scheme(activation, symmetric, method=method, parameter=parameter),
    )


def dynamic(weight: str = "int8", per_channel: bool = False) -> OpConfig:
    granularity = "per_channel" if per_channel else "per_tensor"
    return OpConfig(
        "dynamic", Scheme(weight, weight.startswith("int"), granularity), Scheme("uint8", symmetric=False)
    )


class Tried:
    """A model, prepared, with an engine that builds candidates of it."""

    def __init__(
        self,
        model: ModelProto,
        feeds: Feeds,
        settings: EngineSettings | None = None,
        directory: Path | None = None,
        recipes: Mapping[str, RecipeValue] | None = None,
    ):
        self.prepared = prepare(model, directory=directory, recipes=recipes)
        self.summary = summarize(self.prepared, model)
        self.feeds = feeds
        engine = find_engine("reference")
        self.engine: Engine = engine(self.prepared, self.summary, feeds, settings or EngineSettings())

    def candidate(self, configs: Mapping[str, OpConfig], **recipes: RecipeValue) -> Candidate:
        """Those ops with those configs, every other one in float."""
        ops = {op.name: configs.get(op.name, FLOAT32) for op in self.summary.ops}
        assert configs.keys() <= ops.keys()
        return Candidate.of(ops, recipes)

    def build(self, configs: Mapping[str, OpConfig], **recipes: RecipeValue) -> ModelProto:
        return self.engine.build(self.candidate(configs, **recipes))

    def ops_of(self, *types: str) -> list[str]:
        return [op.name for op in self.summary.ops if op.op_type in types]

    def uniform(self, config: OpConfig, *types: str) -> dict[str, OpConfig]:
        """The same config for all ops of some types; without the weight where the op has none."""
        bare = OpConfig(config.approach, None, config.activation)
        return {op.name: config if op.weight else bare for op in self.summary.ops if op.op_type in types}


class Reader:
    def __init__(self, feeds: Feeds):
        self._feeds = iter(feeds)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._feeds, None)


def stock_static(tried: Tried, configs: Mapping[str, OpConfig], **extra: Any) -> ModelProto:
    """What `quantize_static` makes of ops that all have one config."""
    config = next((c for c in configs.values() if c.weight), next(iter(configs.values())))
    assert config.activation is not None
    options = {"ActivationSymmetric": config.activation.symmetric, **extra}
    if config.activation.method == "percentile":
        options["CalibPercentile"] = config.activation.parameter
        options["CalibTensorRangeSymmetric"] = config.activation.symmetric
    with tempfile.TemporaryDirectory() as folder, quiet_onnxruntime():
        path = Path(folder) / "stock.onnx"
        quantize_static(  # a copy: it moves the tensors of a model in memory out into its own files
            ModelProto.FromString(serialize(tried.prepared)),
            path,
            Reader(tried.feeds),
            per_channel=config.weight is not None and config.weight.granularity == "per_channel",
            activation_type=TYPES[config.activation.dtype],
            weight_type=TYPES[config.weight.dtype if config.weight else config.activation.dtype],
            nodes_to_quantize=list(configs),
            calibrate_method=METHODS[config.activation.method],
            extra_options=options,
        )
        return onnx.load(path)


def stock_dynamic(tried: Tried, configs: Mapping[str, OpConfig]) -> ModelProto:
    """What `quantize_dynamic` makes of ops that all have one config; for Gemm it knows the MatMul's name."""
    weight = next(iter(configs.values())).weight
    assert weight is not None
    with tempfile.TemporaryDirectory() as folder, quiet_onnxruntime():
        path = Path(folder) / "stock.onnx"
        quantize_dynamic(
            tried.prepared,
            path,
            per_channel=weight.granularity == "per_channel",
            weight_type=TYPES[weight.dtype],
            nodes_to_quantize=[name for op in configs for name in (op, f"{op}_MatMul")],
        )
        return onnx.load(path)


def arrays(model: ModelProto) -> dict[str, tuple[str, list[int], list[Any]]]:
    """Type, shape and values of every initializer: codes, scales, zero points and what stayed in float."""
    found = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    return {name: (str(a.dtype), list(a.shape), a.ravel().tolist()) for name, a in found.items()}


def node_types(model: ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def array(model: ModelProto, name: str) -> np.ndarray:
    return next(numpy_helper.to_array(t) for t in model.graph.initializer if t.name == name)


def node_of(model: ModelProto, name: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if node.name == name)


def outputs(model: ModelProto, feeds: Feeds, optimize: bool = True) -> list[np.ndarray]:
    """First output for each feed, by a plain session."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(serialize(model), options, providers=["CPUExecutionProvider"])
    return [session.run(None, feed)[0] for feed in feeds]


def relative_error(model: ModelProto, tried: Tried) -> float:
    """Largest difference to the float model, in units of its largest output."""
    pairs = zip(outputs(model, tried.feeds), outputs(tried.prepared, tried.feeds), strict=True)
    return max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in pairs)
