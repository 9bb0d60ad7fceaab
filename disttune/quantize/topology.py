"""Order and names in an ONNX graph, seen through its subgraphs (If, Loop, Scan).

onnxruntime's own `topological_sort` looks at a node's inputs only: an If whose branches read an outer
tensor may land before the node that makes it.
"""

import functools
import heapq
from collections import defaultdict
from collections.abc import Iterator

from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto


def subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    """The graphs in a node's attributes."""
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.g
        elif attribute.type == AttributeProto.GRAPHS:
            yield from attribute.graphs


def all_nodes(graph: GraphProto) -> Iterator[NodeProto]:
    """Every node of a graph and of the graphs inside its nodes."""
    for node in graph.node:
        yield node
        for inner in subgraphs(node):
            yield from all_nodes(inner)


def all_tensors(graph: GraphProto) -> Iterator[TensorProto]:
    """Every initializer and every tensor in an attribute, subgraphs included."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.TENSOR:
                yield attribute.t
            elif attribute.type == AttributeProto.TENSORS:
                yield from attribute.tensors
        for inner in subgraphs(node):
            yield from all_tensors(inner)


def captured_names(node: NodeProto) -> set[str]:
    """Tensors that the graphs inside a node read from outside."""
    names: set[str] = set()
    for graph in subgraphs(node):
        own = {tensor.name for tensor in graph.initializer} | {value.name for value in graph.input}
        own.update(name for inner in graph.node for name in inner.output)
        used = {name for inner in graph.node for name in read_names(inner)}
        used.update(value.name for value in graph.output)
        names |= used - own
    return names


def read_names(node: NodeProto) -> set[str]:
    """Tensors that a node reads, itself or through its subgraphs."""
    return ({name for name in node.input if name}) | captured_names(node)


def sort_nodes(graph: GraphProto) -> None:
    """Put the nodes into topological order, in place; those that may stay keep their relative order.

    Raises:
        ValueError: the graph has a cycle.
    """
    producer = {name: i for i, node in enumerate(graph.node) for name in node.output if name}
    followers: dict[int, set[int]] = defaultdict(set)
    n_missing = [0] * len(graph.node)
    for i, node in enumerate(graph.node):
        for before in {producer[name] for name in read_names(node) if name in producer}:
            followers[before].add(i)
            n_missing[i] += 1
    ready = [i for i, n in enumerate(n_missing) if n == 0]
    order = []
    while ready:
        i = heapq.heappop(ready)
        order.append(i)
        for after in followers[i]:
            n_missing[after] -= 1
            if n_missing[after] == 0:
                heapq.heappush(ready, after)
    if len(order) < len(graph.node):
        raise ValueError("the graph has a cycle")
    if order != list(range(len(order))):
        nodes = [graph.node[i] for i in order]
        del graph.node[:]
        graph.node.extend(nodes)


def ancestors(graph: GraphProto) -> dict[str, frozenset[str]]:
    """Names of all nodes whose outputs reach a node, by the node's name.

    Args:
        graph: in topological order; its nodes have names.
    """
    producer = {name: i for i, node in enumerate(graph.node) for name in node.output if name}
    reached: list[int] = []  # bit i: node i
    for node in graph.node:
        before = {producer[name] for name in read_names(node) if name in producer}
        reached.append(functools.reduce(lambda bits, i: bits | reached[i] | 1 << i, before, 0))
    names = [node.name for node in graph.node]
    return {
        node.name: frozenset(name for i, name in enumerate(names) if bits >> i & 1)
        for node, bits in zip(graph.node, reached, strict=True)
    }


def drop_unused_opsets(model: ModelProto) -> None:
    """Keep the default domain and the domains that a node is of, in place."""
    used = {"", "ai.onnx"} | {node.domain for node in all_nodes(model.graph)}
    used.update(opset.domain for function in model.functions for opset in function.opset_import)
    kept = [opset for opset in model.opset_import if opset.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)


def default_opset(model: ModelProto) -> int:
    """Version of the default domain; 0 when the model names none."""
    return max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=0)


def unused_name(wanted: str, taken: set[str]) -> str:
    """`wanted`, or the first of `wanted#2`, `wanted#3` ... that is not taken."""
    name, n = wanted, 1
    while name in taken:
        n += 1
        name = f"{wanted}#{n}"
    return name
