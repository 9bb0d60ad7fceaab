"""A model cut into runs of nodes, so that the outputs of one run fit into a memory budget.

Each segment reads what earlier ones made, so that the model is computed once however often it is cut. All
graph optimization is off (see `runs`), so every node is computed as it stands and the cuts change no value.

Rules:
1. Nodes that no wanted tensor needs are left out.
2. A cut is made where the outputs of the segment (wanted tensors, and what later segments read) and what is
   kept from earlier ones would exceed the budget. A node whose own outputs do is a segment by itself.
3. No cut is made where a value would cross it that is not a plain tensor of a known type.
"""

import itertools
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from onnx import GraphProto, NodeProto, TensorProto

from disttune.quantize.topology import read_names

# What numpy has as well; others (strings, bfloat16, sequences ...) stay within a segment.
CROSSING_TYPES = frozenset(
    {
        TensorProto.FLOAT,
        TensorProto.DOUBLE,
        TensorProto.FLOAT16,
        TensorProto.BOOL,
        TensorProto.INT8,
        TensorProto.INT16,
        TensorProto.INT32,
        TensorProto.INT64,
        TensorProto.UINT8,
        TensorProto.UINT16,
        TensorProto.UINT32,
        TensorProto.UINT64,
    }
)


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of nodes.

    Args:
        nodes: in topological order.
        inputs: tensors that it reads and does not make: of the graph, or of earlier segments.
        outputs: wanted tensors, and those that later segments read.
        constants: initializers that it reads.
        kept: tensors made so far that later segments read.
    """

    nodes: tuple[NodeProto, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    constants: frozenset[str]
    kept: frozenset[str]


def cut(
    graph: GraphProto,
    wanted: Collection[str],
    types: Mapping[str, int],
    sizes: Mapping[str, int],
    budget_bytes: int,
) -> list[Segment]:
    """Cut what makes the wanted tensors into segments.

    Args:
        graph: nodes in topological order.
        wanted: names of node outputs.
        types: element types of tensors; those without one cross no cut.
        sizes: bytes of every tensor that is wanted or has a type.
        budget_bytes: for the outputs of a segment and what is kept from earlier ones.
    """
    plan = _Plan(graph, wanted, sizes)
    segments: list[Segment] = []
    start = cuttable = 0
    for end in range(1, len(plan.nodes) + 1):
        if start < cuttable and plan.held_bytes(start, end) > budget_bytes:
            segments.append(plan.segment(start, cuttable))
            start = cuttable
        if all(types.get(name) in CROSSING_TYPES for name in plan.crossing[end]):
            cuttable = end
    return [*segments, plan.segment(start, len(plan.nodes))] if plan.nodes else []


class _Plan:
    """What `cut` asks of a graph. Positions are between nodes: position i is before node i."""

    def __init__(self, graph: GraphProto, wanted: Collection[str], sizes: Mapping[str, int]):
        self.nodes = _needed(graph, wanted)
        self._wanted = frozenset(wanted)
        self._sizes = sizes
        self._constants = {tensor.name for tensor in graph.initializer}
        self._constants.update(tensor.values.name for tensor in graph.sparse_initializer)
        self._made = {name: i for i, node in enumerate(self.nodes) for name in node.output if name}
        self.crossing = self._crossing()
        wanted_bytes = [self._bytes(self._wanted.intersection(node.output)) for node in self.nodes]
        self._wanted_before = list(itertools.accumulate(wanted_bytes, initial=0))

    def held_bytes(self, start: int, end: int) -> int:
        """Of wanted tensors and those that cross an end, while the nodes in between run."""
        unwanted = (n for n in self.crossing[end] - self._wanted if self._made[n] >= start)
        wanted_bytes = self._wanted_before[end] - self._wanted_before[start]
        return self._bytes(self.crossing[start]) + wanted_bytes + self._bytes(unwanted)

    def segment(self, start: int, end: int) -> Segment:
        nodes = self.nodes[start:end]
        made = dict.fromkeys(name for node in nodes for name in node.output if name)
        read = dict.fromkeys(name for node in nodes for name in sorted(read_names(node)))
        return Segment(
            nodes=tuple(nodes),
            inputs=tuple(name for name in read if name not in made and name not in self._constants),
            outputs=tuple(name for name in made if name in self._wanted or name in self.crossing[end]),
            constants=frozenset(read).intersection(self._constants),
            kept=self.crossing[end],
        )

    def _crossing(self) -> list[frozenset[str]]:
        """For each position the tensors that are made before it and read behind it."""
        last_read: dict[str, int] = {}
        for i, node in enumerate(self.nodes):
            last_read.update((name, i) for name in read_names(node) if name in self._made)
        crossing = [frozenset[str]()]
        for i, node in enumerate(self.nodes):
            alive = crossing[-1].union(node.output)
            crossing.append(frozenset(name for name in alive if last_read.get(name, -1) > i))
        return crossing

    def _bytes(self, names: Iterable[str]) -> int:
        return sum(self._sizes.get(name, 0) for name in names)


def _needed(graph: GraphProto, wanted: Collection[str]) -> list[NodeProto]:
    """Rule 1."""
    names = set(wanted)
    nodes = []
    for node in reversed(graph.node):
        if not names.isdisjoint(node.output):
            nodes.append(node)
            names |= read_names(node)
    return nodes[::-1]
