"""Bias correction: take out of each linear op's outputs the mean error that quantizing has put in.

Fast: the error of the weight alone, from the mean of its inputs in the float model, without inference:
E[X W - X V] = E[X] (W - V), tap by tap at the borders of a Conv. The squared error of every output falls by
the square of what is taken out.
Sequential: level by level, an op's level being the number of linear ops that its data has passed. For each
level the model is run with all levels before it already corrected, and its mean outputs are compared with
those of the float model: this also takes out what quantized activations have shifted.

Source: Nagel et al. 2019 (arXiv:1906.04721), section 4.3 and appendix D.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto

from disttune.quantize.bias_shift import shift_outputs
from disttune.quantize.builder.writer import Blueprint
from disttune.quantize.built_layers import BuiltLayer, FloatLayers, built_node, correctable_nodes
from disttune.quantize.editing import GraphEditor
from disttune.quantize.statistics.layer_means import LayerMeans
from disttune.quantize.statistics.measure_channels import measure_channels
from disttune.quantize.statistics.runs import Feed
from disttune.quantize.topology import read_names

Floats = NDArray[np.float64]
Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Correction:
    """What came of it.

    Args:
        blueprint: of the corrected model.
        shifts: by op, what was added to its outputs, shape (n_outputs,).
        skipped: op to the reason why it was left alone.
    """

    blueprint: Blueprint
    shifts: Mapping[str, Floats]
    skipped: Mapping[str, str]


def mean_error(weight: Floats, quantized: Floats, mean: Floats) -> Floats:
    """E[X W - X V] for each output, group after group.

    Args:
        weight, quantized: W and V, shape (n_parts, K, N).
        mean: E[X], shape (n_parts, K).
    """
    return np.asarray(np.einsum("pk,pkn->pn", mean, weight - quantized).reshape(-1))


class FastBiasCorrection:
    """Corrects the models of one float model.

    Args:
        layers: of the float model.
        means: by op, see `measure_layer_means`.
    """

    def __init__(self, layers: FloatLayers, means: Mapping[str, LayerMeans]):
        self._layers = layers
        self._means = means
        self._known: dict[tuple[str, str], Floats] = {}

    def correct(self, blueprint: Blueprint) -> Correction:
        """Correct every op whose weight has constant codes."""
        built = GraphEditor(blueprint.skeleton, blueprint.tensors)
        found, skipped = self._layers.find(built, self._means)
        shifts = {op: shift for op, layer in found.items() if (shift := self._shift(op, layer)).any()}
        by_node = {found[op].node.name: shift for op, shift in shifts.items()}
        corrected, refused = shift_outputs(blueprint, by_node)
        skipped |= {op: refused[found[op].node.name] for op in shifts if found[op].node.name in refused}
        return Correction(corrected, {op: s for op, s in shifts.items() if op not in skipped}, skipped)

    def _shift(self, op: str, layer: BuiltLayer) -> Floats:
        key = op, layer.digest
        if key not in self._known:
            error = mean_error(self._layers.weight(op), layer.quantized(), self._means[op].mean)
            self._known[key] = self._layers.alpha(op) * error
        return self._known[key]


def correct_sequentially(
    blueprint: Blueprint,
    model: ModelProto,
    feeds: Sequence[Feed],
    *,
    n_threads: int = 1,
    providers: Sequence[str] = ("CPUExecutionProvider",),
) -> Correction:
    """Correct a quantized model level by level; see the module.

    Args:
        blueprint: of the quantized model.
        model: the float model that it was built from.
        feeds: calibration samples.
        n_threads: of a run; 0 leaves it to onnxruntime.
        providers: of onnxruntime.
    Raises:
        TrialError: outputs of an op are not finite.
    """
    built = GraphEditor(blueprint.skeleton, blueprint.tensors)
    before = correctable_nodes(model)
    nodes = {node.name: node for node in built.nodes}
    quantized = {op: node for op in before if (node := _quantized_node(nodes, before[op])) is not None}
    axes = {before[op].output[0]: _channel_axis(before[op]) for op in quantized}
    float_means = measure_channels(model, axes, feeds, n_threads=n_threads, providers=providers)
    shifts: dict[str, Floats] = {}
    skipped: dict[str, str] = {}
    for ops in _levels(model, quantized):
        tensors = {op: _whole_output(built, quantized[op], before[op]) for op in ops}
        axes = {tensors[op]: _channel_axis(before[op]) for op in ops}
        found = measure_channels(blueprint.model(), axes, feeds, n_threads=n_threads, providers=providers)
        wanted = {op: float_means[before[op].output[0]].mean - found[tensors[op]].mean for op in ops}
        blueprint, refused = shift_outputs(blueprint, {quantized[op].name: wanted[op] for op in ops})
        shifts |= {op: shift for op, shift in wanted.items() if quantized[op].name not in refused}
        skipped |= {op: refused[quantized[op].name] for op in ops if quantized[op].name in refused}
    return Correction(blueprint, shifts, skipped)


def _quantized_node(nodes: Mapping[str, NodeProto], original: NodeProto) -> NodeProto | None:
    node = built_node(nodes, original)
    return None if node is None or node.input[1] == original.input[1] else node


def _whole_output(built: GraphEditor, node: NodeProto, original: NodeProto) -> str:
    """What a node writes, the bias of a Gemm that became MatMulNBits added."""
    has_bias = original.op_type == "Gemm" and len(original.input) > 2 and bool(original.input[2])
    adder = built.only_reader(node.output[0]) if has_bias and node.op_type == "MatMulNBits" else None
    return str(node.output[0] if adder is None else adder.output[0])


def _channel_axis(node: NodeProto) -> int:
    return 1 if node.op_type == "Conv" else -1


def _levels(model: ModelProto, ops: Collection[str]) -> list[list[str]]:
    """Ops by level, each in graph order."""
    passed: dict[str, int] = {}
    levels: dict[int, list[str]] = defaultdict(list)
    for node in model.graph.node:
        level = max((passed.get(name, 0) for name in read_names(node)), default=0)
        if node.name in ops:
            levels[level].append(node.name)
            level += 1
        passed.update(dict.fromkeys(node.output, level))
    return [levels[level] for level in sorted(levels)]
