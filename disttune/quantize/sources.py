"""Which nodes of the user's model a node of the prepared model stands for, and what it is called.

Optimizing fuses nodes (Conv + BatchNormalization, MatMul + Add -> Gemm with Reshapes around it) but
keeps the names of the tensors at the border. So the prepared nodes are grouped by the tensors between
them that the user's model does not have, and from the outputs of each group the user's nodes are walked
back until tensors that the prepared model has as well: these are the sources of the group.

The name of a node, in this order:
1. A group of one node takes the name of its main source; in a larger group the node with the best main
   source does, and answers to all sources; the others are new and stand for themselves.
2. The main source is the one that reads the node's weight, else one of the same type, else one with a
   weight where the node has one, else the one that makes the node's output; the first in the user's order.
3. A node without sources keeps its name where that is the name of a user's node of the same type.
4. Otherwise `<OpType>:<first output>`. A name that is taken gets `#2`, `#3` ...
"""

from collections import defaultdict
from dataclasses import dataclass

from onnx import GraphProto, ModelProto, NodeProto

from disttune.quantize.topology import read_names, unused_name

# Inputs that hold the weight, for the types that have one.
WEIGHT_INPUTS = {
    "Conv": (1,),
    "ConvTranspose": (1,),
    "Gemm": (1,),
    "MatMul": (1,),
    "Gather": (0,),
    "GatherElements": (0,),
    "GatherND": (0,),
    "LSTM": (1, 2),
    "GRU": (1, 2),
    "RNN": (1, 2),
    "Attention": (1,),
}
# First input that is a bias (int32 with the product of the scales) or the scale of a normalization.
FIRST_BIAS = {
    "Conv": 2,
    "ConvTranspose": 2,
    "Gemm": 2,
    "InstanceNormalization": 1,
    "LayerNormalization": 1,
    "BatchNormalization": 1,
}


@dataclass(frozen=True, slots=True)
class NodeSources:
    """Name of a prepared node and the user's nodes in it (its own name included)."""

    name: str
    sources: tuple[str, ...]


def node_names(graph: GraphProto) -> list[str]:
    """A unique name for every node: its own, or `<OpType>:<first output>` where it has none."""
    taken: set[str] = set()
    names = []
    for node in graph.node:
        name = node.name if node.name and node.name not in taken else _described(node)
        names.append(unused_name(name, taken))
        taken.add(names[-1])
    return names


def trace_sources(prepared: ModelProto, original: ModelProto) -> list[NodeSources]:
    """Name and sources of every node of the prepared model, in its order."""
    tracer = _Tracer(prepared.graph, original.graph)
    found: dict[int, NodeSources] = {}
    for group in _groups(prepared.graph, set(tracer.producer)):
        found.update(tracer.name_group(group))
    return [found[i] for i in range(len(prepared.graph.node))]


def name_nodes(prepared: ModelProto, original: ModelProto) -> None:
    """Give every node of the prepared model the name of `trace_sources`, in place."""
    for node, traced in zip(prepared.graph.node, trace_sources(prepared, original), strict=True):
        node.name = traced.name


def _described(node: NodeProto) -> str:
    return f"{node.op_type}:{node.output[0] if node.output else ''}"


def _groups(graph: GraphProto, known: set[str]) -> list[list[int]]:
    """Nodes joined by tensors that the user's model does not have, each group in graph order."""
    leader = list(range(len(graph.node)))

    def find(i: int) -> int:
        while leader[i] != i:
            i = leader[i]
        return i

    maker = {name: i for i, node in enumerate(graph.node) for name in node.output if name}
    for i, node in enumerate(graph.node):
        for name in node.input:
            if name in maker and name not in known:
                low, high = sorted((find(i), find(maker[name])))
                leader[high] = low
    groups: dict[int, list[int]] = defaultdict(list)
    for i in range(len(graph.node)):
        groups[find(i)].append(i)
    return list(groups.values())


class _Tracer:
    def __init__(self, prepared: GraphProto, original: GraphProto):
        self.prepared = prepared
        self.original = original
        self.names = node_names(original)
        self.producer = {name: i for i, node in enumerate(original.node) for name in node.output if name}
        self.border = {name for node in prepared.node for name in node.output}
        self.border.update(value.name for value in prepared.input)
        self.border.update(tensor.name for tensor in prepared.initializer)
        self.by_name = dict(zip(self.names, original.node, strict=True))
        self.claimed: set[str] = set()  # names of user's nodes that a prepared node already bears
        self.reserved = set(self.names)  # a made-up name must not look like a user's node

    def name_group(self, group: list[int]) -> dict[int, NodeSources]:
        """Rules 1 to 4 of the module for the prepared nodes with these positions."""
        sources = self._sources(group)
        best = min(
            ((*rank, i) for i in group if (rank := self._main(self.prepared.node[i], sources))), default=None
        )
        named: dict[int, NodeSources] = {}
        for i in group:
            node = self.prepared.node[i]
            if best is not None and i == best[2]:
                name = self._claim(self.names[best[1]])
                answers = tuple(dict.fromkeys((name, *(self.names[s] for s in sources))))
            else:
                same = self.by_name.get(node.name)
                kept = same is not None and same.op_type == node.op_type and node.name not in self.claimed
                name = self._claim(node.name if kept else self._new_name(node))
                answers = (name,)
            named[i] = NodeSources(name, answers)
        return named

    def _claim(self, name: str) -> str:
        name = unused_name(name, self.claimed)
        self.claimed.add(name)
        return name

    def _new_name(self, node: NodeProto) -> str:
        return unused_name(_described(node), self.reserved)

    def _sources(self, group: list[int]) -> list[int]:
        """Positions of the user's nodes in a group of prepared ones, in the user's order."""
        open_names = [n for i in group for n in self.prepared.node[i].output if n in self.producer]
        found: set[int] = set()
        while open_names:
            i = self.producer[open_names.pop()]
            if i in found:
                continue
            found.add(i)
            open_names += [
                name
                for name in read_names(self.original.node[i])
                if name in self.producer and name not in self.border
            ]
        return sorted(i for i in found if self.original.node[i].op_type != "Constant")

    def _main(self, node: NodeProto, sources: list[int]) -> tuple[int, int] | None:
        """Rank (0 is best, rule 2) and position of a node's main source."""
        weights = {node.input[i] for i in WEIGHT_INPUTS.get(node.op_type, ()) if i < len(node.input)}
        ranked = []
        for i in sources:
            source = self.original.node[i]
            if weights & set(source.input):
                ranked.append((0, i))
            elif source.op_type == node.op_type:
                ranked.append((1, i))
            elif node.op_type in WEIGHT_INPUTS and source.op_type in WEIGHT_INPUTS:
                ranked.append((2, i))
            elif set(source.output) & set(node.output):
                ranked.append((3, i))
        return min(ranked, default=None)
