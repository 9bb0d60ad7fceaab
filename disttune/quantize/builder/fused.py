"""What onnxruntime makes of a quantized model: which ops it computes on codes, and which in float."""

import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnxruntime
from onnx import ModelProto, NodeProto, TensorProto

from disttune.quantize.export import save_model
from disttune.quantize.graph import is_quantized_type

_PAIR_TYPES = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"})
_Y_SCALE = 7  # input of QGemm: without it the output is float


@dataclass(frozen=True, slots=True)
class FusionReport:
    """How a provider computes the quantized nodes of a model.

    Args:
        kernels: type of the node that computes each quantized node, by the node's name.
        on_codes: names of those that compute on codes.
        in_float: names of those that compute in float between DequantizeLinear and QuantizeLinear.
        absorbed: names of those that became part of others, or went away.
        node_types: how often each type is in the optimized graph.
    """

    kernels: Mapping[str, str]
    on_codes: tuple[str, ...]
    in_float: tuple[str, ...]
    absorbed: tuple[str, ...]
    node_types: Mapping[str, int]

    def __str__(self) -> str:
        kinds = Counter(self.kernels[name] for name in self.on_codes)
        rest = Counter(self.kernels[name] for name in self.in_float)
        parts = [f"{len(self.on_codes)} on codes{_counted(kinds)}"]
        parts += [f"{len(self.in_float)} in float{_counted(rest)}"] if rest else []
        parts += [f"{len(self.absorbed)} absorbed"] if self.absorbed else []
        return ", ".join(parts)


def fused_nodes(model: ModelProto, provider: str = "CPUExecutionProvider") -> FusionReport:
    """Load a quantized model as onnxruntime's extended optimization does, and look at what came of it.

    Args:
        model: static, dynamic or both; not changed.
        provider: of onnxruntime.
    """
    optimized = _optimized(model, provider)
    found = {node.name: node for node in optimized.graph.node}
    with_codes = _computing_on_codes(optimized)
    names = [node.name for node in _quantized_nodes(model)]
    kernels = {name: found[name].op_type for name in names if name in found}
    return FusionReport(
        kernels=kernels,
        on_codes=tuple(name for name in kernels if name in with_codes),
        in_float=tuple(name for name in kernels if name not in with_codes),
        absorbed=tuple(name for name in names if name not in kernels),
        node_types=Counter(node.op_type for node in optimized.graph.node),
    )


def _counted(kinds: Counter[str]) -> str:
    return f" ({', '.join(f'{n} {kind}' for kind, n in kinds.most_common())})" if kinds else ""


def _optimized(model: ModelProto, provider: str) -> ModelProto:
    with tempfile.TemporaryDirectory(prefix="disttune-fused-") as name:
        source, target = Path(name) / "model.onnx", Path(name) / "optimized.onnx"
        save_model(model, source)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(target)
        onnxruntime.InferenceSession(str(source), options, providers=[provider])
        return onnx.load(target, load_external_data=False)


def _quantized_nodes(model: ModelProto) -> list[NodeProto]:
    """Nodes that read what DequantizeLinear gives, and integer operators."""
    dequantized = {n.output[0] for n in model.graph.node if n.op_type == "DequantizeLinear"}
    return [
        node
        for node in model.graph.node
        if node.op_type not in _PAIR_TYPES
        and (is_quantized_type(node.op_type) or not dequantized.isdisjoint(node.input))
    ]


def _computing_on_codes(model: ModelProto) -> set[str]:
    """Names of the integer operators, and of the nodes that move codes."""
    codes = {t.name for t in model.graph.initializer if t.data_type in (TensorProto.INT8, TensorProto.UINT8)}
    names: set[str] = set()
    for node in model.graph.node:
        if node.op_type in _PAIR_TYPES:
            codes.update(node.output[:1] if node.op_type != "DequantizeLinear" else ())
        elif is_quantized_type(node.op_type):
            names.add(node.name)
            if node.op_type.startswith("QLinear") or (node.op_type == "QGemm" and len(node.input) > _Y_SCALE):
                codes.update(node.output)
        elif node.input and node.input[0] in codes:
            names.add(node.name)
            codes.update(node.output)
    return names
