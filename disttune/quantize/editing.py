"""A copy of a float model that is being changed: who reads and makes each tensor, constants, new nodes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from disttune.quantize.tensor_memory import tensor_values
from disttune.quantize.topology import captured_names, sort_nodes, unused_name

Array = NDArray[Any]


class GraphEditor:
    """Edits a copy of a model.

    Only nodes of the main graph are seen; a tensor that a graph inside a node reads is never free.

    Args:
        model: it is not changed.
        beside: initializers that are not in the model; new values never go into them.
    """

    def __init__(self, model: ModelProto, beside: Mapping[str, TensorProto] | None = None):
        self.model = ModelProto()
        self.model.CopyFrom(model)
        graph = self.model.graph
        self._beside = beside or {}
        self._tensors: dict[str, TensorProto] = dict(self._beside)
        self._tensors.update((tensor.name, tensor) for tensor in graph.initializer)
        self._makers: dict[str, NodeProto] = {}
        self._readers: dict[str, list[NodeProto]] = defaultdict(list)
        self._held = {value.name for value in graph.output}
        self._taken = {value.name for value in graph.input} | set(self._tensors)
        for node in graph.node:
            self._index(node)
            self._held |= captured_names(node)
            self._taken.add(node.name)

    @property
    def nodes(self) -> Sequence[NodeProto]:
        """In the order of the graph; new ones come last."""
        nodes: Sequence[NodeProto] = self.model.graph.node
        return nodes

    def maker(self, tensor: str) -> NodeProto | None:
        """The node that writes a tensor."""
        return self._makers.get(tensor)

    def readers(self, tensor: str) -> list[NodeProto]:
        """Nodes that read a tensor, one entry for each input."""
        return self._readers.get(tensor, [])

    def only_reader(self, tensor: str) -> NodeProto | None:
        """The node that reads a tensor when nobody else does, the user included."""
        readers = self.readers(tensor)
        return readers[0] if len(readers) == 1 and self.is_free(tensor) else None

    def is_free(self, tensor: str) -> bool:
        """Whether only nodes of this graph read a tensor."""
        return tensor not in self._held

    def is_constant(self, tensor: str) -> bool:
        """Whether a tensor is a float32 initializer."""
        return tensor in self._tensors and self._tensors[tensor].data_type == TensorProto.FLOAT

    def is_initializer(self, tensor: str) -> bool:
        """Whether a tensor is an initializer of any type."""
        return tensor in self._tensors

    def shape(self, constant: str) -> tuple[int, ...]:
        """Of an initializer."""
        return tuple(self._tensors[constant].dims)

    def array(self, constant: str) -> Array:
        """Values of an initializer; not to be written to."""
        return tensor_values(self._tensors[constant])

    def value(self, constant: str) -> float | None:
        """The one value of a float32 initializer, or None."""
        if not self.is_constant(constant) or any(n != 1 for n in self.shape(constant)):
            return None
        return float(self.array(constant).item())

    def set_constant(self, node: NodeProto, position: int, values: Array) -> None:
        """Give a node other values for a constant input; other readers keep what they have."""
        name = node.input[position] if position < len(node.input) else ""
        array = np.asarray(values, np.float32, order="C")
        if not name or name in self._beside or len(self.readers(name)) > 1 or not self.is_free(name):
            wanted = name or f"{node.name}_bias"
            self.set_input(node, position, self.add_constant(wanted, array))
        else:
            self._tensors[name].CopyFrom(numpy_helper.from_array(array, name))

    def add_constant(self, wanted: str, array: Array) -> str:
        """Name of a new initializer."""
        name = self.new_name(wanted)
        tensor = self.model.graph.initializer.add()
        tensor.CopyFrom(numpy_helper.from_array(array, name))
        self._tensors[name] = tensor
        return name

    def new_name(self, wanted: str) -> str:
        """A name that no tensor or node has."""
        name = unused_name(wanted, self._taken)
        self._taken.add(name)
        return name

    def set_input(self, node: NodeProto, position: int, tensor: str) -> None:
        """Let a node read another tensor; inputs before it that are missing stay empty."""
        while len(node.input) <= position:
            node.input.append("")
        before = node.input[position]
        if before:
            self._drop_reader(before, node)
        node.input[position] = tensor
        self._readers[tensor].append(node)

    def retype(self, node: NodeProto, op_type: str, inputs: Sequence[str]) -> None:
        """Make a node another op of the default domain, without attributes; name and output stay."""
        for name in node.input:
            if name:
                self._drop_reader(name, node)
        del node.input[:]
        del node.attribute[:]
        node.op_type = op_type
        node.ClearField("domain")
        for i, name in enumerate(inputs):
            self.set_input(node, i, name)

    def rename_output(self, node: NodeProto, tensor: str, position: int = 0) -> None:
        """Let a node write an output under another name, which nobody else writes any more."""
        self._makers.pop(node.output[position], None)
        node.output[position] = tensor
        self._makers[tensor] = node

    def remove(self, node: NodeProto) -> None:
        """Take a node out; what it wrote has to be written by another."""
        for name in node.input:
            if name:
                self._drop_reader(name, node)
        for name in node.output:
            if self._makers.get(name) is node:
                del self._makers[name]
        self.model.graph.node.remove(node)

    def add(
        self,
        op_type: str,
        inputs: Sequence[str],
        output: str,
        wanted: str,
        attributes: Mapping[str, Any] | None = None,
    ) -> NodeProto:
        """A new node of the default domain."""
        node: NodeProto = self.model.graph.node.add()
        node.CopyFrom(
            helper.make_node(op_type, inputs, [output], self.new_name(wanted), **(attributes or {}))
        )
        self._index(node)
        return node

    def insert_behind(self, node: NodeProto, op_type: str, constant: str, wanted: str) -> NodeProto:
        """Put an op with a constant behind a node: it writes what the node wrote."""
        output = node.output[0]
        between = self.new_name(f"{output}_before_{op_type.lower()}")
        self.rename_output(node, between)
        return self.add(op_type, [between, constant], output, wanted)

    def finish(self) -> ModelProto:
        """The changed model: nodes in order, without constants that nothing reads."""
        graph = self.model.graph
        sort_nodes(graph)
        used = {name for name, readers in self._readers.items() if readers} | self._held
        for i in reversed(range(len(graph.initializer))):
            if graph.initializer[i].name not in used:
                del graph.initializer[i]
        written = {name for node in graph.node for name in node.output}
        known = [value for value in graph.value_info if value.name in written]
        del graph.value_info[:]
        graph.value_info.extend(known)
        return self.model

    def _index(self, node: NodeProto) -> None:
        self._taken.update(node.output)
        for name in node.output:
            if name:
                self._makers[name] = node
        for name in node.input:
            if name:
                self._readers[name].append(node)

    def _drop_reader(self, tensor: str, node: NodeProto) -> None:
        readers = self._readers[tensor]
        del readers[next(i for i, reader in enumerate(readers) if reader is node)]


def attribute(node: NodeProto, name: str, default: Any) -> Any:
    """Value of a node's attribute; text as str."""
    for found in node.attribute:
        if found.name == name:
            value = helper.get_attribute_value(found)
            return value.decode() if isinstance(value, bytes) else value
    return default
