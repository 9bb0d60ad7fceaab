"""Mean and mean square of the rows that a layer multiplies by its weight, for correcting biases and weights.

Means are linear: tensors are summed over the samples first, and cut into rows once at the end. What comes of
padding is in them, tap by tap.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from disttune.quantize.statistics.layer_inputs import LayerInput, layer_inputs
from disttune.quantize.statistics.layer_rows import Array, MatrixRows, PatchRows
from disttune.quantize.statistics.runs import Feed
from disttune.quantize.statistics.tensor_runs import TensorRuns, check_finite

MEMORY_BYTES = 2**28
_PORTION_ROWS = 4096
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class LayerMeans:
    """Of one layer's input X.

    Args:
        mean: E[x], float64, shape (n_parts, K).
        square: E[x^2], float64, shape (n_parts, K).
    """

    mean: Floats
    square: Floats


def measure_layer_means(
    model: ModelProto,
    node_names: Sequence[str],
    feeds: Sequence[Feed],
    *,
    n_threads: int = 1,
    providers: Sequence[str] = ("CPUExecutionProvider",),
    memory_bytes: int = MEMORY_BYTES,
) -> dict[str, LayerMeans]:
    """Means over all rows of each layer's input, by name of the node.

    Args:
        model: made by `graph.prepare`; it must not change meanwhile.
        node_names: of MatMul, Gemm, Conv and ConvTranspose nodes with a constant weight.
        feeds: inputs of all runs, in order; at least one.
        n_threads: of a run; 0 leaves it to onnxruntime.
        providers: of onnxruntime.
        memory_bytes: for values of tensors.
    Raises:
        TrialError: a node has no layer, or its inputs hold NaN or infinity; names it and the feed.
    """
    wanted = layer_inputs(model, node_names)
    sums = {source: (_Sum(source), _Sum(source)) for source in wanted.values()}
    runs = TensorRuns(model, {s.tensor for s in sums}, feeds, n_threads, providers, memory_bytes)
    for i in range(len(feeds)):
        for tensor, array in runs.run(i):
            check_finite(array, f'tensor "{tensor}" in feed {i}')
            readers = [found for source, found in sums.items() if source.tensor == tensor]
            squares = np.square(array, dtype=np.float64)
            for mean, square in readers:
                mean.add(array)
                square.add(squares)
    means = {source: LayerMeans(mean.mean(), square.mean()) for source, (mean, square) in sums.items()}
    return {name: means[source] for name, source in wanted.items()}


class _Sum:
    def __init__(self, source: LayerInput):
        self._rows = source.rows
        self._total = np.zeros((source.rows.n_parts, source.rows.n_inputs))
        self._n_rows = 0
        self._images: dict[tuple[int, ...], tuple[Floats, int]] = {}

    def add(self, tensor: Array) -> None:
        """Take in one feed."""
        if isinstance(self._rows, MatrixRows):
            rows = tensor.T if self._rows.transposed else tensor.reshape(-1, self._rows.n_inputs)
            self._total[0] += rows.sum(axis=0, dtype=np.float64)
            self._n_rows += len(rows)
            return
        total, n = self._images.get(tensor.shape[1:], (np.zeros(tensor.shape[1:]), 0))
        for image in tensor:
            total += image
        self._images[tensor.shape[1:]] = total, n + len(tensor)

    def mean(self) -> Floats:
        """Of everything taken in; zeros when that was nothing."""
        for image, n in self._images.values():
            self._add_patches(image, n)
        self._images.clear()
        return self._total / max(self._n_rows, 1)

    def _add_patches(self, image: Floats, n: int) -> None:
        assert isinstance(self._rows, PatchRows)
        for source in self._rows.sources(image[np.newaxis], 1):
            for start in range(0, source.n_rows, _PORTION_ROWS):
                positions = np.arange(start, min(start + _PORTION_ROWS, source.n_rows))
                patches = self._rows.buffer(positions.size)
                source.write(positions, patches)
                self._total += patches.sum(axis=2)
            self._n_rows += n * source.n_rows


def as_arrays(means: Mapping[str, LayerMeans]) -> dict[str, Array]:
    """Plain arrays for other ranks: see `from_arrays`."""
    arrays: dict[str, Array] = {"names": np.array(list(means), dtype=np.str_)}
    for i, found in enumerate(means.values()):
        arrays |= {f"{i}/mean": found.mean, f"{i}/square": found.square}
    return arrays


def from_arrays(arrays: Mapping[str, Array]) -> dict[str, LayerMeans]:
    """What `as_arrays` was made of."""
    names = [str(name) for name in arrays["names"]]
    return {n: LayerMeans(arrays[f"{i}/mean"], arrays[f"{i}/square"]) for i, n in enumerate(names)}
