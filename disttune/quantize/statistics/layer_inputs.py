"""Gram matrices and means of what layers read, by running the float model as far as it takes.

The result depends on the model, the feeds and their order alone, to the last bit: not on which layers are
measured together, on memory or on threads. Rows are taken in order and multiplied in portions of
`PORTION_ROWS`, in float64, however many of them a feed has; portions are added in order.

A sample with more than `most_rows` rows (pixels of a large image) gives that many of them, evenly spread and
shifted from sample to sample; `n_rows` counts those.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, NodeProto

from disttune.config.errors import InternalError, TrialError
from disttune.quantize.algorithms.layer import LayerInputs
from disttune.quantize.builder.writer import Blueprint
from disttune.quantize.statistics.kept_tensors import Chain
from disttune.quantize.statistics.layer_rows import Array, Positions, Rows, rows_of
from disttune.quantize.statistics.runs import Feed, n_rows
from disttune.quantize.statistics.tensor_runs import TensorRuns, check_finite

MEMORY_BYTES = 2**28
# Rows of one sample: 32 x 32 pixels, or a long text, in full.
MOST_ROWS = 1024
PORTION_ROWS = 512
# Fractional part of the golden ratio: its multiples are spread evenly; no column of pixels is left out.
_SHIFT = 0.6180339887498949


@dataclass(frozen=True, slots=True)
class LayerInput:
    """What a layer reads; equal for layers that share their inputs.

    Args:
        tensor: name.
        rows: how it is cut into rows.
    """

    tensor: str
    rows: Rows

    @property
    def gram_bytes(self) -> int:
        """Memory that its Gram matrix takes."""
        return 8 * self.rows.n_parts * self.rows.n_inputs**2


def layer_inputs(model: ModelProto, node_names: Sequence[str]) -> dict[str, LayerInput]:
    """What layers read, by name of the node.

    Args:
        model: made by `graph.prepare`.
        node_names: of MatMul, Gemm, Conv and ConvTranspose nodes with a constant weight.
    Raises:
        TrialError: a node has no layer; names it and the cause.
        InternalError: the model has no such node.
    """
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    nodes = _nodes(model)
    found = {}
    for name in node_names:
        if name not in nodes:
            raise InternalError(f'inputs of "{name}": the model has no such node')
        node = nodes[name]
        weight = node.input[1] if len(node.input) > 1 else ""
        if weight not in shapes:
            raise TrialError(f"op {name}: its second input is no constant, so it has no weight")
        if node.input[0] in shapes:
            raise TrialError(f"op {name}: it reads nothing but constants, so it has no inputs to measure")
        found[name] = LayerInput(node.input[0], rows_of(node, shapes[weight]))
    return found


def measure_layer_inputs(
    model: ModelProto,
    node_names: Sequence[str],
    feeds: Sequence[Feed],
    *,
    n_threads: int = 1,
    providers: Sequence[str] = ("CPUExecutionProvider",),
    memory_bytes: int = MEMORY_BYTES,
    most_rows: int = MOST_ROWS,
    chain: Chain | None = None,
) -> dict[str, LayerInputs]:
    """What calibration finds of the inputs of layers; layers that share theirs get the same object.

    Args:
        model: made by `graph.prepare`; it must not change meanwhile.
        node_names: see `layer_inputs`.
        feeds: inputs of all runs, in order.
        n_threads: of a run; 0 leaves it to onnxruntime.
        providers: of onnxruntime.
        memory_bytes: for values of tensors. The model, the Gram matrices (see `LayerInput.gram_bytes`) and
            512 rows of each input come on top.
        most_rows: of a sample.
        chain: where runs of this model have ended.
    Raises:
        TrialError: a layer has no such inputs, or they hold NaN, infinities or values whose squares are
            beyond float64; names the tensor and the sample.
    """
    wanted = layer_inputs(model, node_names)
    moments = {source: _Moments(source.rows, most_rows) for source in wanted.values()}
    tensors = {source.tensor for source in moments}
    runs = TensorRuns(model, tensors, feeds, n_threads, providers, memory_bytes, chain=chain)
    for i, feed in enumerate(feeds):
        for tensor, array in runs.run(i):
            for source, moment in moments.items():
                if source.tensor == tensor:
                    moment.add((array,), n_rows(feed) or 1, f'tensor "{tensor}" in feed {i}')
    done = {source: moment.inputs() for source, moment in moments.items()}
    return {name: done[source] for name, source in wanted.items()}


def measure_cross_inputs(
    float_model: ModelProto,
    quantized_model: Blueprint,
    node_names: Sequence[str],
    feeds: Sequence[Feed],
    *,
    n_threads: int = 1,
    providers: Sequence[str] = ("CPUExecutionProvider",),
    memory_bytes: int = MEMORY_BYTES,
    most_rows: int = MOST_ROWS,
    chains: tuple[Chain, Chain] | None = None,
) -> dict[str, LayerInputs]:
    """The same with the inputs that a quantized model gives: `gram` of those, `cross` of both, row by row.

    Sums and magnitudes (`total`, `absolute`) are those of the float model. All tensors of a feed are held at
    once; the other arguments are those of `measure_layer_inputs`.

    Args:
        quantized_model: of the same graph: nodes of these names read the quantized tensors.
        chains: where runs of the float model have ended, and those of models that begin as the quantized one.
    Raises:
        TrialError: as `measure_layer_inputs`, or the quantized model has no such node.
    """
    wanted = layer_inputs(float_model, node_names)
    others = _nodes(quantized_model.skeleton)
    for name in node_names:
        if name not in others or not others[name].input:
            raise TrialError(f"op {name}: the quantized model has no node of that name to compare with")
    pairs = {name: (source, others[name].input[0]) for name, source in wanted.items()}
    moments = {pair: _Moments(pair[0].rows, most_rows, crossed=True) for pair in pairs.values()}
    tensors, own = {source.tensor for source, _ in moments}, {other for _, other in moments}
    first, second = chains or (None, None)
    before = TensorRuns(float_model, tensors, feeds, n_threads, providers, memory_bytes, chain=first)
    after = TensorRuns(
        quantized_model.skeleton,
        own,
        feeds,
        n_threads,
        providers,
        memory_bytes,
        beside=quantized_model.tensors,
        chain=second,
    )
    for i, feed in enumerate(feeds):
        references = dict(before.run(i))
        for tensor, array in after.run(i):
            for (source, other), moment in moments.items():
                if other == tensor:
                    where = f'tensor "{tensor}" of the quantized model in feed {i}'
                    moment.add((references[source.tensor], array), n_rows(feed) or 1, where)
    done = {pair: moment.inputs() for pair, moment in moments.items()}
    return {name: done[pair] for name, pair in pairs.items()}


class _Moments:
    """Sums over the rows of one input: of the float model alone, or of both models."""

    def __init__(self, rows: Rows, most_rows: int, *, crossed: bool = False):
        self._rows = rows
        self._most_rows = most_rows
        n_parts, n_inputs = rows.n_parts, rows.n_inputs
        self._buffers = [rows.buffer(PORTION_ROWS) for _ in range(2 if crossed else 1)]
        self._gram = np.zeros((n_parts, n_inputs, n_inputs))
        self._cross = np.zeros_like(self._gram) if crossed else None
        self._total, self._absolute = np.zeros((2, n_parts, n_inputs))
        self._n_rows = self._n_filled = self._n_sources = 0

    def add(self, tensors: Sequence[Array], n_samples: int, where: str) -> None:
        """Take in a feed: of the float model, and where both count of the quantized one."""
        for tensor in tensors:
            check_finite(tensor, where)
        each = (self._rows.sources(tensor, n_samples) for tensor in tensors)
        for sources in zip(*each, strict=True):
            if sources[0].n_rows != sources[-1].n_rows:
                raise TrialError(
                    f"{where}: the rows of the float and of the quantized model differ in number"
                )
            positions = self._chosen(sources[0].n_rows)
            while positions.size:
                n = min(PORTION_ROWS - self._n_filled, positions.size)
                room = slice(self._n_filled, self._n_filled + n)
                for source, buffer in zip(sources, self._buffers, strict=True):
                    source.write(positions[:n], buffer[:, :, room])
                positions = positions[n:]
                self._n_filled += n
                if self._n_filled == PORTION_ROWS:
                    self._multiply()

    def inputs(self) -> LayerInputs:
        """Of everything taken in so far."""
        self._multiply()
        return LayerInputs(self._n_rows, self._gram, self._total, self._absolute, self._cross)

    def _chosen(self, n: int) -> Positions:
        """Positions of the rows that a sample gives."""
        shift = self._n_sources * _SHIFT % 1
        self._n_sources += 1
        if n <= self._most_rows:
            return np.arange(n)
        spread = (np.arange(self._most_rows) + shift) * (n / self._most_rows)
        return np.minimum(spread.astype(np.intp), n - 1)

    def _multiply(self) -> None:
        """Add the rows in the buffers to the sums."""
        x, last = (buffer[:, :, : self._n_filled] for buffer in (self._buffers[0], self._buffers[-1]))
        self._gram += last @ last.swapaxes(1, 2)
        if self._cross is not None:
            self._cross += last @ x.swapaxes(1, 2)
        self._total += x.sum(axis=2)
        self._absolute += np.abs(x).sum(axis=2)
        self._n_rows += self._n_filled
        self._n_filled = 0


def _nodes(model: ModelProto) -> dict[str, NodeProto]:
    return {node.name: node for node in model.graph.node}
