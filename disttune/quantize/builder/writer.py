"""Write a graph node by node in topological order; large tensors are only named, and put in at the end.

A tensor can be declared with the way to make it: the nodes that make it are written right before the
first node that reads it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, helper

from disttune.quantize.builder.float_model import FloatModel, FloatNode
from disttune.quantize.editing import GraphEditor
from disttune.quantize.topology import unused_name

MS_DOMAIN = "com.microsoft"
_SMALL_ELEMENTS = 256  # up to here a tensor is part of the skeleton


@dataclass(frozen=True, eq=False)
class Blueprint:
    """A model whose large tensors stand beside it, so that many models can share them.

    Args:
        skeleton: the model without those tensors; valid only together with them.
        tensors: name in the model to the tensor; its own name does not count. Must not be changed.
        owner: holds the memory of tensors whose values stand beside their messages.
    """

    skeleton: ModelProto
    tensors: Mapping[str, TensorProto]
    owner: object = None

    def edited(self, editor: GraphEditor) -> Blueprint:
        """The model as an editor of it leaves it, with the large tensors that are still read."""
        tensors = {n: t for n, t in self.tensors.items() if editor.readers(n) or not editor.is_free(n)}
        return replace(self, skeleton=editor.finish(), tensors=tensors)

    def model(self) -> ModelProto:
        """One model, with copies of all tensors; values in memory stay there while the blueprint lives."""
        model = ModelProto()
        model.CopyFrom(self.skeleton)
        add_tensors(model, self.tensors)
        return model


def add_tensors(model: ModelProto, tensors: Mapping[str, TensorProto]) -> None:
    """Add copies of tensors to the initializers, under the names given."""
    for name, tensor in tensors.items():
        added = model.graph.initializer.add()
        added.CopyFrom(tensor)
        added.name = name


def is_small(tensor: TensorProto) -> bool:
    """Whether a tensor is part of a skeleton; by its shape, because to ask for its size is to write it."""
    return bool(math.prod(tensor.dims) <= _SMALL_ELEMENTS)


class ModelWriter:
    """Collects the nodes and tensors of one model.

    Args:
        model: the float model: its inputs, outputs and types are taken over, and its constants as far as
            they are read.
    """

    def __init__(self, model: FloatModel):
        self._model = model
        self._skeleton = ModelProto()
        self._skeleton.CopyFrom(model.template)
        self._nodes = self._skeleton.graph.node
        self._taken = set(model.names)
        self._tensors: dict[str, TensorProto] = {}
        self._makers: dict[str, Callable[[], None]] = {}
        self._read: set[str] = set()
        self._written: set[str] = set()
        self._uses_ms_domain = False

    def new_name(self, wanted: str) -> str:
        """A name that nothing in the model has yet."""
        name = unused_name(wanted, self._taken)
        self._taken.add(name)
        return name

    def add_tensor(self, wanted: str, tensor: TensorProto) -> str:
        """Name of a new constant; the tensor itself is not changed."""
        name = self.new_name(wanted)
        self._tensors[name] = tensor
        return name

    def declare(self, tensor: str, make: Callable[[], None]) -> None:
        """Say how a tensor is made; done before its first reader is written, if there is one."""
        self._makers[tensor] = make

    def add_node(
        self,
        op_type: str,
        inputs: Sequence[str],
        outputs: Sequence[str],
        wanted: str,
        attributes: Mapping[str, int] | Iterable[AttributeProto] = (),
        domain: str = "",
    ) -> None:
        """Write a node; its name is new."""
        self._make(inputs)
        node = self._nodes.add(
            op_type=op_type, input=inputs, output=outputs, name=self.new_name(wanted), domain=domain
        )
        if isinstance(attributes, Mapping):
            attributes = [helper.make_attribute(key, value) for key, value in attributes.items()]
        node.attribute.extend(attributes)
        self._uses_ms_domain |= domain == MS_DOMAIN
        self._written.update(outputs)

    def copy_node(self, node: FloatNode, inputs: Sequence[str], outputs: Sequence[str]) -> NodeProto:
        """Write a node of the float model with other inputs and outputs; gives the copy."""
        self._make((*inputs, *node.captured))
        copy: NodeProto = self._nodes.add()
        copy.CopyFrom(node.message)
        if tuple(inputs) != node.inputs:
            del copy.input[:]
            copy.input.extend(inputs)
        if tuple(outputs) != node.outputs:
            del copy.output[:]
            copy.output.extend(outputs)
        self._written.update(outputs)
        return copy

    def finish(self, origins: Mapping[str, str]) -> Blueprint:
        """The model with all that was written.

        Args:
            origins: names that were read as copies of constants of the float model.
        """
        self._make([value.name for value in self._skeleton.graph.output])
        constants = self._model.constants
        read = {name for name in self._read if name in constants or name in origins}
        tensors = {name: constants[name] for name in constants if name in read - self._written}
        tensors.update((name, constants[origin]) for name, origin in origins.items() if name in read)
        tensors.update(self._tensors)
        small = {name: tensor for name, tensor in tensors.items() if is_small(tensor)}
        add_tensors(self._skeleton, small)
        if self._uses_ms_domain:
            _import_ms_domain(self._skeleton)
        return Blueprint(self._skeleton, {n: t for n, t in tensors.items() if n not in small})

    def _make(self, names: Iterable[str]) -> None:
        for name in names:
            if name in self._makers:
                self._makers.pop(name)()
            self._read.add(name)


def _import_ms_domain(model: ModelProto) -> None:
    if all(opset.domain != MS_DOMAIN for opset in model.opset_import):
        model.opset_import.add(domain=MS_DOMAIN, version=1)
