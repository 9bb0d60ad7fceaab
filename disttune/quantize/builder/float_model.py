"""The prepared model as the builder reads it: names and types in plain Python, messages kept to be copied."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from onnx import ModelProto, NodeProto, TensorProto

from disttune.quantize.sources import WEIGHT_INPUTS
from disttune.quantize.statistics.shapes import element_types
from disttune.quantize.tensor_memory import without_large_tensors
from disttune.quantize.topology import captured_names, default_opset


@dataclass(frozen=True, slots=True)
class FloatNode:
    """A node of the prepared model.

    Args:
        captured: tensors that graphs inside it read from outside; they are not among its inputs.
        float_constants: positions of its inputs that are float32 initializers.
        message: to be copied, never changed.
    """

    name: str
    op_type: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    captured: frozenset[str] = field(repr=False)
    float_constants: tuple[int, ...] = field(repr=False)
    message: NodeProto = field(repr=False)


@dataclass(frozen=True, eq=False)
class FloatModel:
    """The float model that candidates are built from, read once.

    Args:
        nodes: in topological order.
        template: the model without nodes and initializers; not changed.
        constants: every initializer by name; not changed.
        float_constants: names of those of type float32.
        floats: names of the float32 tensors that nodes, or the user, make.
        shared_weights: weights that several nodes read as their weight: node and position of each reader.
        n_reads: how often each tensor is an input of a node, or captured by one.
        captured: tensors that a graph inside a node reads.
        inputs: names of the graph's inputs.
        outputs: names of the graph's outputs.
        opset: of the default domain.
        names: of every tensor and node; new ones must differ.
    """

    nodes: tuple[FloatNode, ...]
    template: ModelProto
    constants: Mapping[str, TensorProto]
    float_constants: frozenset[str]
    floats: frozenset[str]
    shared_weights: Mapping[str, tuple[tuple[FloatNode, int], ...]]
    n_reads: Mapping[str, int]
    captured: frozenset[str]
    inputs: frozenset[str]
    outputs: frozenset[str]
    opset: int
    names: frozenset[str]

    def rank(self, constant: str) -> int:
        return len(self.constants[constant].dims)


def read_float_model(model: ModelProto, large: Mapping[str, TensorProto] | None = None) -> FloatModel:
    """Read a prepared model; its nodes and tensors are kept and must not change any more.

    Args:
        large: tensors by name that stand in for those of the model, which may be empty.
    """
    large = large or {}
    constants = {tensor.name: large.get(tensor.name, tensor) for tensor in model.graph.initializer}
    float_constants = frozenset(n for n, t in constants.items() if t.data_type == TensorProto.FLOAT)
    nodes = tuple(_read_node(node, float_constants) for node in model.graph.node)
    reads = Counter(name for node in nodes for name in (*node.inputs, *node.captured) if name)
    written = {name for node in nodes for name in node.outputs if name}
    inputs = frozenset(value.name for value in model.graph.input if value.name not in constants)
    template = without_large_tensors(model)
    floats = {name for name, kind in element_types(template).items() if kind == TensorProto.FLOAT}
    del template.graph.node[:]
    del template.graph.initializer[:]
    return FloatModel(
        nodes=nodes,
        template=template,
        constants=constants,
        float_constants=float_constants,
        floats=frozenset(floats & (written | inputs)),
        shared_weights=_shared_weights(nodes),
        n_reads=reads,
        captured=frozenset(name for node in nodes for name in node.captured),
        inputs=inputs,
        outputs=frozenset(value.name for value in model.graph.output),
        opset=default_opset(model),
        names=frozenset((*constants, *inputs, *written, *reads, *(node.name for node in nodes))),
    )


def _read_node(node: NodeProto, float_constants: frozenset[str]) -> FloatNode:
    inputs = tuple(node.input)
    return FloatNode(
        node.name,
        node.op_type,
        inputs,
        tuple(node.output),
        frozenset(captured_names(node)) if node.attribute else frozenset(),
        tuple(i for i, name in enumerate(inputs) if name in float_constants),
        node,
    )


def _shared_weights(nodes: Sequence[FloatNode]) -> dict[str, tuple[tuple[FloatNode, int], ...]]:
    readers: dict[str, list[tuple[FloatNode, int]]] = defaultdict(list)
    for node in nodes:
        for i in WEIGHT_INPUTS.get(node.op_type, ()):
            if i in node.float_constants:
                readers[node.inputs[i]].append((node, i))
    return {weight: tuple(reads) for weight, reads in readers.items() if len(reads) > 1}
