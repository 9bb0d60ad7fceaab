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

import hashlib
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from disttune.quantize.algorithms.layout import layout_of
from disttune.quantize.bias_shift import shift_outputs
from disttune.quantize.builder.writer import Blueprint
from disttune.quantize.editing import GraphEditor, attribute
from disttune.quantize.statistics.layer_means import LayerMeans
from disttune.quantize.statistics.measure_channels import measure_channels
from disttune.quantize.statistics.runs import Feed
from disttune.quantize.topology import read_names

Floats = NDArray[np.float64]
Array = NDArray[Any]
CORRECTED_TYPES = ("Conv", "Gemm", "MatMul")


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


def correctable_nodes(model: ModelProto) -> dict[str, NodeProto]:
    """Nodes of a float model that can be corrected: with a constant weight and data that is not, in order."""
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    found = {}
    for node in model.graph.node:
        if node.op_type not in CORRECTED_TYPES or node.domain not in ("", "ai.onnx"):
            continue
        weight = weights.get(node.input[1])
        if weight is None or node.input[0] in weights or weight.data_type != TensorProto.FLOAT:
            continue
        if 0 not in weight.dims and (node.op_type != "MatMul" or len(weight.dims) == 2):
            found[node.name] = node
    return found


class FastBiasCorrection:
    """Corrects the models of one float model.

    Args:
        model: the float model; it is kept and must not change any more.
        means: by op, see `measure_layer_means`.
    """

    def __init__(self, model: ModelProto, means: Mapping[str, LayerMeans]):
        self._nodes = {node.name: node for node in model.graph.node}
        self._weights = {tensor.name: tensor for tensor in model.graph.initializer}
        self._means = means
        self._known: dict[tuple[str, str], Floats] = {}

    def correct(self, blueprint: Blueprint) -> Correction:
        """Correct every op whose weight has constant codes."""
        built = GraphEditor(blueprint.skeleton, blueprint.tensors)
        nodes = {node.name: node for node in built.nodes}
        shifts, skipped = {}, {}
        for op in self._means:
            node = _built_node(nodes, self._nodes[op])
            found = self._shift(built, node, op) if node is not None else "it was split into several nodes"
            if isinstance(found, str):
                skipped[op] = found
            elif node is not None and found.any():
                shifts[op, node.name] = found
        corrected, refused = shift_outputs(blueprint, {name: shift for (_, name), shift in shifts.items()})
        skipped |= {op: refused[name] for op, name in shifts if name in refused}
        done = {op: shift for (op, name), shift in shifts.items() if name not in refused}
        return Correction(corrected, done, skipped)

    def _shift(self, built: GraphEditor, node: NodeProto, op: str) -> Floats | str:
        data = built.maker(node.input[0])
        if data is not None and data.op_type in ("Mul", "Div") and data.name not in self._nodes:
            return "its inputs are divided by factors of their own"
        if node.op_type == "MatMulNBits":
            maker, names = node, list(node.input[1:])
        elif self._nodes[op].input[1] == node.input[1]:
            return "its weight is in float"
        else:
            found = built.maker(node.input[1])
            if found is None or found.op_type != "DequantizeLinear":
                return "the codes of its weight are not constant"
            maker, names = found, list(found.input)
        if not all(built.is_initializer(name) for name in names if name):
            return "the codes of its weight are not constant"
        arrays = [built.array(name) for name in names if name]
        digest = hashlib.blake2b(b"".join(array.tobytes() for array in arrays), digest_size=16).hexdigest()
        key = op, digest
        if key not in self._known:
            self._known[key] = self._error(op, maker, arrays)
        return self._known[key]

    def _error(self, op: str, maker: NodeProto, arrays: Sequence[Array]) -> Floats:
        source = self._nodes[op]
        weight = numpy_helper.to_array(self._weights[source.input[1]])
        layout = layout_of(source, weight.shape)
        if maker.op_type == "MatMulNBits":
            quantized = unpacked(maker, *arrays)[np.newaxis]
        else:
            quantized = layout.weight(dequantized(maker, *arrays))
        alpha = attribute(source, "alpha", 1.0) if source.op_type == "Gemm" else 1.0
        return np.asarray(alpha * mean_error(layout.weight(weight), quantized, self._means[op].mean))


def dequantized(node: NodeProto, codes: Array, scale: Array, zero_point: Array | None = None) -> Floats:
    """What a DequantizeLinear of constants gives, per tensor, channel or group; shape of the codes."""
    steps = codes.astype(np.float64)
    axis, size = attribute(node, "axis", 1), attribute(node, "block_size", 0)

    def spread(values: Array) -> Floats:
        as_float = values.astype(np.float64)
        if size:
            return np.take(np.repeat(as_float, size, axis=axis), range(codes.shape[axis]), axis=axis)
        shape = [1] * codes.ndim
        if as_float.size > 1:
            shape[axis] = -1
        return as_float.reshape(shape)

    if zero_point is not None:
        steps = steps - spread(zero_point)
    return np.asarray(steps * spread(scale))


def unpacked(node: NodeProto, codes: Array, scale: Array, zero_point: Array | None = None) -> Floats:
    """The weight of a MatMulNBits, shape (K, N); the opposite of `builder.nbits_tensors`."""
    n_rows, n_columns, bits = (attribute(node, name, 0) for name in ("K", "N", "bits"))
    size, n_blocks = attribute(node, "block_size", 0), codes.shape[1]
    values = _unpacked_rows(codes.reshape(n_columns, -1), bits).reshape(n_columns, n_blocks, size)
    if zero_point is None:
        zeros = np.full((n_columns, n_blocks), 2.0 ** (bits - 1))
    elif zero_point.dtype == np.uint8:
        zeros = _unpacked_rows(zero_point.reshape(n_columns, -1), bits)[:, :n_blocks]
    else:
        zeros = zero_point.astype(np.float64).reshape(n_columns, n_blocks)
    steps = scale.astype(np.float64).reshape(n_columns, n_blocks, 1)
    return np.asarray(((values - zeros[:, :, np.newaxis]) * steps).reshape(n_columns, -1)[:, :n_rows].T)


def _unpacked_rows(packed: Array, bits: int) -> Floats:
    """Codes of rows of bytes, the low bits first."""
    per_byte = 8 // bits
    codes = np.empty((len(packed), packed.shape[1] * per_byte))
    for i in range(per_byte):
        codes[:, i::per_byte] = packed >> (i * bits) & (2**bits - 1)
    return codes


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


def _built_node(nodes: Mapping[str, NodeProto], original: NodeProto) -> NodeProto | None:
    """What a node has become in a quantized model: itself, or a MatMulNBits."""
    names = (original.name, *(f"{original.name}_Q{bits}" for bits in (2, 4, 8)))
    found = (nodes[name] for name in names if name in nodes)
    return next((node for node in found if node.op_type in (original.op_type, "MatMulNBits")), None)


def _quantized_node(nodes: Mapping[str, NodeProto], original: NodeProto) -> NodeProto | None:
    node = _built_node(nodes, original)
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
