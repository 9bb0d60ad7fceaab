"""One candidate into one model: shared weights apart, static ops, dynamic ones, weights alone, checks."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto
from onnxruntime.quantization.quant_utils import load_model_with_shape_infer

from disttune.config.errors import InternalError, TrialError
from disttune.config.schemes import OpConfig
from disttune.quantize.builder.float_model import read_float_model
from disttune.quantize.builder.tensor_schemes import activation_schemes, copy_shared_weights
from disttune.quantize.counts import count_quantized
from disttune.quantize.engine import RESOLVED_RECIPES, WRITTEN_RECIPES, EngineSettings
from disttune.quantize.preprocess import first_line
from disttune.quantize.quiet import quiet_onnxruntime
from disttune.quantize.reduced_range import with_reduced_ranges
from disttune.quantize.reference.calibration import Calibration
from disttune.quantize.reference.dynamic import quantize_dynamic_ops
from disttune.quantize.reference.schemes import use_copies
from disttune.quantize.reference.static import quantize_static_ops
from disttune.quantize.reference.weight_only import quantize_weights
from disttune.quantize.size import LARGE_BYTES, model_bytes
from disttune.quantize.topology import sort_nodes
from disttune.space.candidate import Candidate
from disttune.space.summary import ModelSummary

APPROACHES = ("static", "dynamic", "weight_only")
_METHODS = frozenset({"minmax", "entropy", "percentile", "distribution"})
_INFER_MARK = "onnx.infer"  # onnxruntime's quantizers mark a model whose types are known


class Builder:
    """See `ReferenceEngine`."""

    def __init__(
        self,
        prepared: ModelProto,
        summary: ModelSummary,
        feeds: Sequence[Mapping[str, np.ndarray]],
        settings: EngineSettings,
    ):
        self._prepared = prepared
        self._ops = {op.name: op.op_type for op in summary.ops}
        self._directory = settings.directory
        self._valid = _invalid(prepared) is None  # onnxruntime also runs models that onnx calls invalid
        with quiet_onnxruntime(settings.directory):
            self._inferred = _with_types(prepared)
        self._float = read_float_model(self._inferred)
        self._calibration = Calibration(self._inferred, feeds, settings)

    def build(self, candidate: Candidate) -> ModelProto:
        candidate = with_reduced_ranges(candidate, self._ops)
        configs = {op: c for op, c in candidate.configs().items() if c.quantized}
        if unknown := configs.keys() - self._ops.keys():
            raise InternalError(f"the candidate quantizes op {min(unknown)}, which the model does not have")
        if not configs:
            return _copy(self._prepared)
        self._check(configs, candidate)
        with quiet_onnxruntime(self._directory):
            model = self._quantized(candidate, configs)
        return self._finished(model, len(configs))

    def _quantized(self, candidate: Candidate, configs: Mapping[str, OpConfig]) -> ModelProto:
        model = _copy(self._inferred)
        use_copies(model, copy_shared_weights(self._float, candidate))
        static = {op: c for op, c in configs.items() if c.approach == "static"}
        dynamic = {op: c for op, c in configs.items() if c.approach == "dynamic"}
        weight_only = {op: c for op, c in configs.items() if c.approach == "weight_only"}
        if static:
            schemes = activation_schemes(self._float, static)
            model = quantize_static_ops(model, static, schemes, self._calibration, dict(candidate.recipes))
            sort_nodes(model.graph)
        if dynamic:
            if static:
                _rename_parameters(model, {node.name for node in self._inferred.graph.node})
                model = _with_types(model)
            model = quantize_dynamic_ops(model, dynamic)
        return quantize_weights(model, weight_only) if weight_only else model

    def _finished(self, model: ModelProto, n_ops: int) -> ModelProto:
        kept = [entry for entry in model.metadata_props if entry.key != _INFER_MARK]
        del model.metadata_props[:]
        model.metadata_props.extend(kept)
        if count_quantized(model) == 0:
            raise TrialError(f"onnxruntime's quantizer left all {n_ops} ops of the candidate in float")
        if self._valid and (fault := _invalid(model)):
            raise TrialError(f"onnxruntime's quantizer made an invalid model: {fault}")
        return model

    def _check(self, configs: Mapping[str, OpConfig], candidate: Candidate) -> None:
        for recipe, value in candidate.recipes:
            if recipe not in WRITTEN_RECIPES | RESOLVED_RECIPES and value:
                raise TrialError(
                    f'engine "reference" has no recipe {recipe}; it has {", ".join(sorted(WRITTEN_RECIPES))}'
                )
        for op, config in configs.items():
            if config.approach not in APPROACHES:
                raise TrialError(
                    f'op {op}: engine "reference" does {", ".join(APPROACHES)}, not {config.approach}'
                )
            for scheme in (config.weight, config.activation):
                if scheme is not None and scheme.method not in _METHODS:
                    methods = ", ".join(sorted(_METHODS))
                    raise TrialError(
                        f'op {op}: engine "reference" has no method {scheme.method}; it has {methods}'
                    )
            if config.weight is not None and config.weight.method != "minmax":
                raise TrialError(
                    f'op {op}: engine "reference" takes weights by their minimum and maximum, '
                    f"not by {config.weight.method}"
                )


def _copy(model: ModelProto) -> ModelProto:
    copy = ModelProto()
    copy.CopyFrom(model)
    return copy


def _rename_parameters(model: ModelProto, float_nodes: set[str]) -> None:
    """Make room for the names that the dynamic quantizer gives to its own nodes and scales.

    For a tensor x both quantizers make a node `x_QuantizeLinear` and tensors `x_scale` and
    `x_zero_point`, and the dynamic one takes a node of that name for its own.
    """
    parameters: dict[str, str] = {}
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and node.name not in float_nodes:
            node.name += "_static"
            for i in range(1, len(node.input)):
                parameters[node.input[i]] = node.input[i] + "_static"
                node.input[i] = parameters[node.input[i]]
    for tensor in model.graph.initializer:
        tensor.name = parameters.get(tensor.name, tensor.name)


def _invalid(model: ModelProto) -> str | None:
    """What `onnx.checker` finds wrong. Models of 2 GiB are not checked: it takes those from a file only."""
    if model_bytes(model) < LARGE_BYTES:
        try:
            onnx.checker.check_model(model)
        except onnx.checker.ValidationError as error:
            return first_line(error)
    return None


def _with_types(model: ModelProto) -> ModelProto:
    """The model with the types of all tensors, as onnxruntime's quantizers load one."""
    with tempfile.TemporaryDirectory(prefix="disttune-infer-") as folder:
        path = Path(folder) / "model.onnx"
        large = model_bytes(model) >= LARGE_BYTES
        onnx.save_model(_copy(model), path, save_as_external_data=large, location="model.onnx.data")
        inferred: ModelProto = load_model_with_shape_infer(path)
        return inferred
