"""Some tensors of a model, feed after feed: what measuring layers and channels has in common."""

from collections.abc import Collection, Iterator, Sequence

import numpy as np
from onnx import ModelProto

from disttune.config.errors import TrialError
from disttune.quantize.preprocess import first_line
from disttune.quantize.statistics.runs import Array, Feed, Runs, feed_bytes


class TensorRuns:
    """A model that is run as far as some tensors need.

    Args:
        model: with its data in memory; it must not change any more.
        tensors: names, of outputs of nodes or of inputs of the graph.
        feeds: that will be run.
        n_threads: of a run; 0 leaves it to onnxruntime.
        providers: of onnxruntime.
        memory_bytes: for values of tensors.
    Raises:
        ModelError: onnxruntime cannot load the model.
    """

    def __init__(
        self,
        model: ModelProto,
        tensors: Collection[str],
        feeds: Sequence[Feed],
        n_threads: int,
        providers: Sequence[str],
        memory_bytes: int,
    ):
        made = {name for node in model.graph.node for name in node.output}
        self._fed = sorted(set(tensors) - made)
        self._runs = Runs(
            model,
            made.intersection(tensors),
            n_threads=n_threads,
            providers=providers,
            memory_bytes=memory_bytes,
        )
        if feeds:
            self._runs.make_fit(max(feeds, key=feed_bytes))

    def run(self, feed: Feed) -> Iterator[tuple[str, Array]]:
        """The tensors of one feed: inputs of the graph, then the others in topological order.

        Raises:
            TrialError: onnxruntime cannot run the model.
        """
        yield from ((name, feed[name]) for name in self._fed)
        try:
            for values in self._runs.run(feed):
                while values:
                    yield values.pop(0)
        except Exception as error:  # onnxruntime's own have no common type
            raise TrialError(f"onnxruntime cannot run the model on a feed: {first_line(error)}") from error
        self._runs.give_back_memory()


def check_finite(tensor: Array, where: str) -> None:
    """Raise a TrialError that says where a tensor holds NaN or infinity."""
    if not np.isfinite(tensor).all():
        raise TrialError(
            f"{where} (counted from 0) holds NaN or infinity, which no sum can be made of. "
            "Leave the op in float32, or the sample out."
        )
