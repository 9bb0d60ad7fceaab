"""Statistics per channel of some tensors, by running the float model as far as it takes."""

from collections.abc import Mapping, Sequence

from onnx import ModelProto

from disttune.quantize.statistics.channels import ChannelStatistics
from disttune.quantize.statistics.runs import Feed, n_rows
from disttune.quantize.statistics.tensor_runs import TensorRuns, check_finite

MEMORY_BYTES = 2**28


def measure_channels(
    model: ModelProto,
    axes: Mapping[str, int],
    feeds: Sequence[Feed],
    *,
    n_threads: int = 1,
    providers: Sequence[str] = ("CPUExecutionProvider",),
    memory_bytes: int = MEMORY_BYTES,
) -> dict[str, ChannelStatistics]:
    """Statistics of each channel of some tensors, over all feeds.

    Each sample is summed by itself and the sums are added in order, so the result does not depend on how
    samples are grouped into feeds, on which tensors are measured together, on memory or on threads.

    Args:
        model: made by `graph.prepare`; it must not change meanwhile.
        axes: axis of the channels by name of tensor; may be negative.
        feeds: inputs of all runs, in order; at least one.
        n_threads: of a run; 0 leaves it to onnxruntime.
        providers: of onnxruntime.
        memory_bytes: for values of tensors.
    Raises:
        TrialError: a tensor holds NaN or infinity; names it and the feed.
    """
    parts: dict[str, list[ChannelStatistics]] = {name: [] for name in axes}
    runs = TensorRuns(model, axes, feeds, n_threads, providers, memory_bytes)
    for i, feed in enumerate(feeds):
        n_samples = n_rows(feed) or 1
        for name, array in runs.run(i):
            check_finite(array, f'tensor "{name}" in feed {i}')
            axis = range(array.ndim)[axes[name]]
            aligned = axis > 0 and array.shape[0] == n_samples
            samples = (array[k : k + 1] for k in range(n_samples)) if aligned else (array,)
            parts[name] += [ChannelStatistics.of(sample, axis) for sample in samples]
    return {name: ChannelStatistics.merged(found) for name, found in parts.items()}
