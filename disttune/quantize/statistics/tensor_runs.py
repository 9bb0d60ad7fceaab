"""Some tensors of a model, feed after feed: what measuring layers and channels has in common."""

from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np
from onnx import ModelProto, TensorProto, ValueInfoProto

from disttune.config.errors import TrialError
from disttune.quantize.preprocess import first_line
from disttune.quantize.statistics.kept_tensors import Chain, Stretch, stretch
from disttune.quantize.statistics.runs import Array, Feed, Runs, feed_bytes
from disttune.quantize.tensor_memory import copy_field
from disttune.quantize.topology import read_names


class TensorRuns:
    """A model that is run as far as some tensors need.

    Args:
        model: with its data in memory; it must not change any more.
        tensors: names, of outputs of nodes or of inputs of the graph.
        feeds: that will be run, in this order.
        n_threads: of a run; 0 leaves it to onnxruntime.
        providers: of onnxruntime.
        memory_bytes: for values of tensors.
        beside: tensors of the model by name that are not among its initializers.
        chain: of runs that start where others have ended; None: every run starts from the inputs.
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
        *,
        beside: Mapping[str, TensorProto] | None = None,
        chain: Chain | None = None,
    ):
        made = {name for node in model.graph.node for name in node.output}
        self._fed = sorted(set(tensors) - made)
        self._wanted = made.intersection(tensors)
        self._feeds = feeds
        self._chain = chain
        self._stretch = Stretch(tuple(model.graph.node), {}, {}, ())
        if chain is not None:
            self._stretch = stretch(model.graph, self._wanted, chain)
        if chain is not None or beside:
            model = _model_of(model, self._stretch, beside or {}, chain)
        self._runs = Runs(
            model,
            (self._wanted - self._stretch.starts.keys()) | self._stretch.leaves.keys(),
            n_threads=n_threads,
            providers=providers,
            memory_bytes=memory_bytes,
        )
        self._left: dict[str, list[Array]] = {name: [] for name in self._stretch.leaves}
        self._left_bytes = 0
        if feeds:
            self._runs.make_fit(max(map(self._whole_feed, range(len(feeds))), key=feed_bytes))

    def run(self, number: int) -> Iterator[tuple[str, Array]]:
        """The tensors of one feed: inputs of the graph, then the others in topological order.

        With a chain all feeds have to be run, one after another; what the last one leaves is then kept.

        Args:
            number: of the feed.
        Raises:
            TrialError: onnxruntime cannot run the model.
        """
        feed = self._whole_feed(number)
        yield from ((name, feed[name]) for name in self._fed)
        starts = self._stretch.starts
        yield from ((name, feed[name]) for name in starts if name in self._wanted)
        try:
            for values in self._runs.run(feed):
                self._leave(values)
                while values:
                    name, array = values.pop(0)
                    if name in self._wanted:
                        yield name, array
        except Exception as error:  # onnxruntime's own have no common type
            raise TrialError(f"onnxruntime cannot run the model on a feed: {first_line(error)}") from error
        self._runs.give_back_memory()
        if number == len(self._feeds) - 1:
            self._keep()

    def _whole_feed(self, number: int) -> Feed:
        """With what is kept of it."""
        feed = self._feeds[number]
        if self._chain is None or not self._stretch.starts:
            return feed
        kept = self._chain.kept
        return {**feed, **{name: kept.of_feed(key, number) for name, key in self._stretch.starts.items()}}

    def _leave(self, values: Sequence[tuple[str, Array]]) -> None:
        for name, array in values:
            if name in self._left:
                self._left[name].append(array)
                self._left_bytes += array.nbytes
        if self._chain is not None and self._left_bytes > self._chain.kept.most_bytes:
            self._left, self._left_bytes = {}, 0

    def _keep(self) -> None:
        if self._chain is not None:
            leaves = self._stretch.leaves
            arrays = {leaves[name]: found for name, found in self._left.items()}
            self._chain.kept.keep(arrays, self._stretch.still)
        self._left = {}


def check_finite(tensor: Array, where: str) -> None:
    """Raise a TrialError that says where a tensor holds NaN or infinity."""
    if not np.isfinite(tensor).all():
        raise TrialError(
            f"{where} (counted from 0) holds NaN or infinity, which no sum can be made of. "
            "Leave the op in float32, or the sample out."
        )


def _model_of(
    model: ModelProto, part: Stretch, beside: Mapping[str, TensorProto], chain: Chain | None
) -> ModelProto:
    """A stretch as a model of its own, which takes the tensors that it starts from as inputs."""
    small = ModelProto()
    for field, value in model.ListFields():
        if field.name != "graph":
            copy_field(small, field.name, value)
    read = {name for node in part.nodes for name in read_names(node)}
    graph = small.graph
    graph.name = model.graph.name
    graph.node.extend(part.nodes)
    graph.input.extend(model.graph.input)
    made = {name for node in part.nodes for name in node.output}
    known = [value for value in (*model.graph.value_info, *model.graph.output) if value.name in made]
    graph.value_info.extend(known)  # types and shapes that nobody can infer
    for name in part.starts:
        assert chain is not None
        value = ValueInfoProto(name=name)
        value.type.tensor_type.elem_type = chain.types[name]
        graph.input.append(value)
    graph.initializer.extend(tensor for tensor in model.graph.initializer if tensor.name in read)
    graph.sparse_initializer.extend(t for t in model.graph.sparse_initializer if t.values.name in read)
    for name, tensor in beside.items():
        if name in read:
            added = graph.initializer.add()
            added.CopyFrom(tensor)
            added.name = name
    return small
