"""Tensors of all feeds that a later run starts from, so that what comes before them is not computed again.

Layers are measured one after another, each with the ones before it quantized: the next run differs from the
last only behind what that has computed.

Rules:
1. A run keeps what it has computed, or has started from, and nodes behind it still read.
2. A tensor is known by a key that says how it is computed: equal keys, equal values, whoever asks.
3. Those of a run are kept together or not at all, and given up when others need the memory, the ones that
   were last of use at last.
"""

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from onnx import GraphProto, NodeProto

from disttune.quantize.statistics.runs import Array
from disttune.quantize.statistics.segments import CROSSING_TYPES
from disttune.quantize.topology import read_names

KEPT_BYTES = 2**29


class KeptTensors:
    """Arrays by key, one for each feed.

    Args:
        most_bytes: of all arrays together.
    """

    def __init__(self, most_bytes: int = KEPT_BYTES):
        self.most_bytes = most_bytes
        self._arrays: OrderedDict[str, Sequence[Array]] = OrderedDict()

    def __contains__(self, key: str) -> bool:
        return key in self._arrays

    def of_feed(self, key: str, feed: int) -> Array:
        """One that is there; it must not be written to."""
        return self._arrays[key][feed]

    def keep(self, arrays: Mapping[str, Sequence[Array]], still: Collection[str]) -> None:
        """Take new ones in.

        Args:
            arrays: by key.
            still: keys of those that are there and still of use; the others go first.
        """
        for key in still:
            self._arrays.move_to_end(key)
        for key, values in arrays.items():
            self._arrays[key] = values
            self._arrays.move_to_end(key)
        n_bytes = sum(map(_n_bytes, self._arrays.values()))
        while n_bytes > self.most_bytes:
            n_bytes -= _n_bytes(self._arrays.popitem(last=False)[1])


@dataclass(frozen=True, slots=True)
class Chain:
    """Runs of one model, or of models that begin alike.

    Args:
        kept: where their tensors are kept.
        types: element types of the tensors that may be.
        key: of a tensor by its name (rule 2); None for one that is not to be kept.
    """

    kept: KeptTensors
    types: Mapping[str, int]
    key: Callable[[str], str | None]

    def key_to_keep(self, name: str) -> str | None:
        """None for a tensor that cannot be kept, or is not to be."""
        return self.key(name) if self.types.get(name) in CROSSING_TYPES else None


@dataclass(frozen=True, slots=True)
class Stretch:
    """What is left to be run of a graph.

    Args:
        nodes: in topological order.
        starts: keys by name of the kept tensors that they, or who asks, read.
        leaves: keys by name of the tensors that they make and that are to be kept.
        still: keys of kept tensors that nodes behind read.
    """

    nodes: tuple[NodeProto, ...]
    starts: Mapping[str, str]
    leaves: Mapping[str, str]
    still: tuple[str, ...]


def stretch(graph: GraphProto, wanted: Collection[str], chain: Chain) -> Stretch:
    """What is left to be run for some tensors, from what is kept.

    Args:
        graph: in topological order.
        wanted: outputs of nodes.
    """
    keys = {
        name: key for node in graph.node for name in node.output if name and (key := chain.key_to_keep(name))
    }
    known = {name: key for name, key in keys.items() if key in chain.kept}
    nodes, read = _before(graph, wanted, known)
    made = _outputs(nodes)
    done, _ = _before(graph, wanted, ())
    done_names = {id(node) for node in done}
    behind = {n for node in graph.node if id(node) not in done_names for n in read_names(node)}
    passed = behind & _outputs(done)
    return Stretch(
        nodes,
        {name: known[name] for name in read if name in known and name not in made},
        {name: keys[name] for name in sorted(passed & made) if name in keys and name not in known},
        tuple(known[name] for name in sorted(passed) if name in known),
    )


def _before(
    graph: GraphProto, wanted: Collection[str], known: Collection[str]
) -> tuple[tuple[NodeProto, ...], set[str]]:
    """The nodes that make some tensors from those that are known, and all names that are read or wanted."""
    names = set(wanted)
    nodes = []
    for node in reversed(graph.node):
        if any(name in names and name not in known for name in node.output):
            nodes.append(node)
            names |= read_names(node)
    return tuple(reversed(nodes)), names


def _outputs(nodes: Iterable[NodeProto]) -> set[str]:
    return {name for node in nodes for name in node.output if name}


def _n_bytes(arrays: Sequence[Array]) -> int:
    return sum(array.nbytes for array in arrays)
