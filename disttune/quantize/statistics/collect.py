"""The calibration pass: one run of the float model over all feeds, and nothing kept but statistics.

The result depends on the feeds and their order only: not on how many are collected at a time, on the
memory they may take, or on threads.
"""

from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from onnx import ModelProto, NodeProto, TensorProto

from disttune.config.errors import DataError, InternalError
from disttune.quantize.preprocess import first_line
from disttune.quantize.statistics.batch import NanError
from disttune.quantize.statistics.layout import Samples
from disttune.quantize.statistics.observer import TensorObserver
from disttune.quantize.statistics.runs import Array, Feed, Runs, feed_bytes, n_rows
from disttune.quantize.statistics.same_values import Source, value_sources
from disttune.quantize.statistics.shapes import element_types
from disttune.quantize.statistics.statistics import Statistics
from disttune.quantize.statistics.tally import Tally
from disttune.quantize.statistics.tensor_statistics import TensorStatistics
from disttune.space.capability import load_capability

MEMORY_BYTES = 2**27
# Values of several feeds are taken in together, because a small array costs as much time as 10,000 values.
_WAITING_SHARE = 4
_MOST_WAITING_BYTES = 2**26
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16)

_T = TypeVar("_T")
_Named = tuple[str, Array]


def tensors_of_interest(
    prepared: ModelProto, placement: str = "all", target: str = "ort-cpu"
) -> tuple[str, ...]:
    """The float activations that some candidate may quantize: graph inputs, then in the order of nodes.

    Those that a node reads or makes which the target quantizes statically. With placement "speed" a node
    has to be of a type that the target computes on integers, or lie between two such nodes with nothing
    but quantized ones in between. Constants and the insides of subgraphs do not count.

    Args:
        prepared: made by `graph.prepare`.
        placement: "speed" or "all".
        target: name of a capability file.
    """
    rows = [row for row in load_capability(target).rows if row.approach == "static"]
    nodes = [node for node in prepared.graph.node if any(node.op_type in row.op_types for row in rows)]
    if placement == "speed":
        fast = frozenset(t for row in rows if row.placement == "speed" for t in row.op_types)
        behind, before = _reached(nodes, fast), _leading(nodes, fast)
        nodes = [n for i, n in enumerate(nodes) if n.op_type in fast or (i in behind and i in before)]
    touched = {name for node in nodes for name in (*node.input, *node.output)}
    types = element_types(prepared)
    constants = {tensor.name for tensor in prepared.graph.initializer}
    names = [value.name for value in prepared.graph.input if value.name not in constants]
    names += [name for node in prepared.graph.node for name in node.output]
    return tuple(name for name in names if name in touched and types.get(name) in _FLOATS)


def blocks(feeds: Sequence[Feed], block_samples: int) -> list[range]:
    """Cut feeds into blocks: each the least run of whole feeds with so many samples, the last what is left.

    The same for any number of ranks.

    Args:
        feeds: all calibration feeds.
        block_samples: > 0.
    Returns:
        Ranges of positions in `feeds`.
    """
    batched = all(n_rows(feed) is not None for feed in feeds)
    found: list[range] = []
    start = n_samples = 0
    for i, feed in enumerate(feeds):
        n_samples += (n_rows(feed) or 1) if batched else 1
        if n_samples >= block_samples or i == len(feeds) - 1:
            found.append(range(start, i + 1))
            start, n_samples = i + 1, 0
    return found


def collect(
    prepared: ModelProto,
    feeds: Sequence[Feed],
    tensors: Sequence[str],
    *,
    n_threads: int = 1,
    providers: Sequence[str] = ("CPUExecutionProvider",),
    memory_bytes: int = MEMORY_BYTES,
    first_sample: int = 0,
) -> Statistics:
    """Statistics of a model's tensors over some feeds, as `Collector.collect`.

    Args:
        prepared: made by `graph.prepare`.
        feeds: inputs of all runs, in order.
        tensors: see `tensors_of_interest`.
        n_threads: of a run; 0 leaves it to onnxruntime.
        providers: of onnxruntime.
        memory_bytes: for values of tensors; the model and onnxruntime's own memory come on top.
        first_sample: number of samples before these feeds, for messages.
    """
    collector = Collector(
        prepared, tensors, n_threads=n_threads, providers=providers, memory_bytes=memory_bytes
    )
    return collector.collect(feeds, first_sample)


class Collector:
    """Collects statistics of the same tensors again and again, with the same sessions.

    With two threads or more, one of them counts what the others have made before.

    Args:
        prepared: made by `graph.prepare`; it is kept and must not change any more.
        tensors: see `tensors_of_interest`.
        n_threads: of this process; 0 leaves those of a run to onnxruntime.
        providers: of onnxruntime.
        memory_bytes: for values of tensors; the model and onnxruntime's own memory come on top.
    Raises:
        InternalError: the model has no such tensor.
    """

    def __init__(
        self,
        prepared: ModelProto,
        tensors: Sequence[str],
        *,
        n_threads: int = 1,
        providers: Sequence[str] = ("CPUExecutionProvider",),
        memory_bytes: int = MEMORY_BYTES,
    ):
        made = {name for node in prepared.graph.node for name in node.output}
        inputs = {value.name for value in prepared.graph.input}
        if unknown := [name for name in tensors if name not in made | inputs]:
            raise InternalError(f'statistics of "{unknown[0]}": the model has no such tensor')
        self._sources = value_sources(prepared, tensors)
        observed = {source.tensor for source in self._sources.values()}
        self._fed = sorted(observed & inputs)
        self._runs_ahead = n_threads != 1
        self._waiting_bytes = min(_MOST_WAITING_BYTES, memory_bytes // _WAITING_SHARE)
        self._runs = Runs(
            prepared,
            made & observed,
            n_threads=max(1, n_threads - 1) if n_threads else 0,
            providers=providers,
            memory_bytes=(memory_bytes - self._waiting_bytes) // (2 if self._runs_ahead else 1),
        )
        self._tally = Tally()

    def collect(self, feeds: Sequence[Feed], first_sample: int = 0) -> Statistics:
        """Run all feeds once.

        Args:
            feeds: inputs of all runs, in order.
            first_sample: number of samples before these feeds, for messages.
        Raises:
            DataError: a tensor holds NaN, or onnxruntime cannot run a feed; names tensor and sample.
            ModelError: onnxruntime cannot load the model.
        """
        intake = _Intake(self._sources.values(), self._tally)
        if feeds:
            self._runs.make_fit(max(feeds, key=feed_bytes))
        outputs = self._outputs(feeds, first_sample)
        for samples, values in _ahead(outputs) if self._runs_ahead else outputs:
            while values:
                intake.add(samples, *values.pop())
            if intake.n_bytes > self._waiting_bytes:
                intake.take_in(self._waiting_bytes // 2)
                self._runs.give_back_memory()
        intake.take_in()
        found = intake.statistics()
        return Statistics({name: found[source] for name, source in self._sources.items()})

    def _outputs(self, feeds: Sequence[Feed], first_sample: int) -> Iterator[tuple[range, list[_Named]]]:
        """The tensors of all feeds, each time a few of them, with the samples of the feed."""
        for feed in feeds:
            samples = range(first_sample, first_sample + (n_rows(feed) or 1))
            first_sample = samples.stop
            yield samples, [(name, feed[name]) for name in self._fed]
            try:
                for values in self._runs.run(feed):
                    yield samples, values
            except Exception as error:  # onnxruntime's own have no common type
                raise DataError(
                    f"calibration: onnxruntime cannot run the model on {_words(samples)}: {first_line(error)}"
                ) from error


def _ahead(items: Iterator[_T]) -> Iterator[_T]:
    """The same items; the next one is made by another thread while one is looked at."""
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(next, items, None)
        while (item := waiting.result()) is not None:
            waiting = thread.submit(next, items, None)
            yield item


class _Intake:
    """Values on their way to the observers."""

    def __init__(self, sources: Collection[Source], tally: Tally):
        self._rectified = {s.tensor: TensorObserver(tally) for s in sources if s.rectified}
        tensors = dict.fromkeys(source.tensor for source in sources)
        self._observers = {name: TensorObserver(tally, self._rectified.get(name)) for name in tensors}
        self._waiting: dict[str, list[tuple[range, Samples]]] = {name: [] for name in tensors}
        self._sizes = dict.fromkeys(tensors, 0)
        self.n_bytes = 0

    def add(self, samples: range, name: str, array: Array) -> None:
        """One tensor over a feed with these samples."""
        aligned = array.shape[:1] == (len(samples),)
        self._waiting[name].append((samples, Samples(array, len(samples) if aligned else 1)))
        self._sizes[name] += array.nbytes
        self.n_bytes += array.nbytes

    def take_in(self, n_bytes: int = 0) -> None:
        """Hand the largest tensors to the observers, until no more than so many bytes are left.

        The small ones wait for more of their kind, since each time costs as much as 50,000 values.

        Raises:
            DataError: NaN; of all tensors that hold it in the earliest sample, it names the first.
        """
        found: dict[str, range] = {}
        for name in sorted(self._sizes, key=lambda name: -self._sizes[name]):
            if self.n_bytes <= n_bytes and not found:
                break
            waiting = self._waiting[name]
            try:
                self._observers[name].add([samples for _, samples in waiting])
            except NanError as nan:
                found[name] = _samples_at(waiting, nan.sample)
            waiting.clear()
            self.n_bytes -= self._sizes[name]
            self._sizes[name] = 0
        if found:
            samples, name = min(((found[n], n) for n in self._sizes if n in found), key=lambda f: f[0].start)
            raise DataError(
                f'calibration: tensor "{name}" holds NaN for {_words(samples)}. Run the float model on it, '
                "and mend the model or leave the sample out."
            )

    def statistics(self) -> dict[Source, TensorStatistics]:
        plain = {Source(name): observer.statistics() for name, observer in self._observers.items()}
        rectified = {Source(name, True): observer.statistics() for name, observer in self._rectified.items()}
        return plain | rectified


def _samples_at(waiting: Sequence[tuple[range, Samples]], position: int) -> range:
    """The samples of the job that the entry at a position stands for."""
    for samples, values in waiting:
        if position < values.n:
            return samples[position : position + 1] if values.n == len(samples) else samples
        position -= values.n
    raise AssertionError(position)


def _words(samples: range) -> str:
    if len(samples) == 1:
        return f"sample {samples.start} (counted from 0)"
    return f"one of the samples {samples.start} to {samples.stop - 1} (counted from 0)"


def _reached(nodes: Sequence[NodeProto], types: Collection[str]) -> set[int]:
    """Positions of the nodes that read what one of these types made, directly or through other nodes."""
    tensors: set[str] = set()
    found = set()
    for i, node in enumerate(nodes):
        if not tensors.isdisjoint(node.input):
            found.add(i)
        if i in found or node.op_type in types:
            tensors.update(filter(None, node.output))
    return found


def _leading(nodes: Sequence[NodeProto], types: Collection[str]) -> set[int]:
    """Positions of the nodes that make what one of these types reads, directly or through other nodes."""
    tensors: set[str] = set()
    found = set()
    for i, node in reversed(list(enumerate(nodes))):
        if not tensors.isdisjoint(node.output):
            found.add(i)
        if i in found or node.op_type in types:
            tensors.update(filter(None, node.input))
    return found
