"""`model_digest`: what a model computes, in 32 hexadecimal digits; and its bytes, always the same ones.

A tensor is described by how it comes about, not by its name: an input by its position, an initializer
by type, shape and bytes, a node's output by the operator, its attributes and the descriptions of what
it reads. The digest is over the multiset of all descriptions, so that it does not depend on names, on
the order of nodes, on attributes that say the default, on doc strings, metadata or producer, but does
on everything that is computed, on what the inputs and outputs are called, and on how often a node or an
initializer is there.
"""

import functools
import hashlib
from collections.abc import Iterable, Mapping, Sequence

import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

from disttune.config.errors import InternalError
from disttune.quantize.tensor_memory import Bytes, in_memory, known_description, raw_values
from disttune.quantize.topology import all_nodes, sort_nodes

_DIGEST_BYTES = 16
_ABSENT = b"absent"


def serialize(model: ModelProto) -> bytes:
    """The model as the bytes of an ONNX file, equal for equal models."""
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def model_digest(model: ModelProto, descriptions: Mapping[str, bytes] | None = None) -> str:
    """Digest over what the model computes: 32 hexadecimal digits.

    Args:
        model: with all data in memory; the nodes may be in any order.
        descriptions: of initializers that the model lacks, by name: what `describe_tensor` gives for them.
    Raises:
        InternalError: a tensor lies in a file.
    """
    domains = {_domain(node.domain) for node in all_nodes(model.graph)}
    opsets = {_domain(opset.domain): opset.version for opset in model.opset_import}
    used = {domain: opsets.get(domain, 0) for domain in sorted(domains)}
    functions = sorted(_function_bytes(model))
    described = _Describer(used).graph(model.graph, {}, by_name=True, descriptions=descriptions or {})
    return _hash("model", [repr(used).encode(), *functions, described]).hex()


def describe_tensor(tensor: TensorProto) -> bytes:
    """Digest of a tensor by type, shape and values, wherever the message keeps them; not by its name.

    Raises:
        InternalError: it lies in a file.
    """
    if in_memory(tensor) and (known := known_description(tensor)) is not None:
        return known
    if in_memory(tensor):
        return describe_values(raw_values(tensor), tensor.data_type, tensor.dims)
    if tensor.data_location == TensorProto.EXTERNAL:
        raise InternalError(f'tensor "{tensor.name}" lies in a file; load the external data first')
    if tensor.data_type == TensorProto.STRING:
        head = [str(tensor.data_type).encode(), str(list(tensor.dims)).encode()]
        return _hash("tensor", [*head, *tensor.string_data])
    return describe_values(raw_values(tensor), tensor.data_type, tensor.dims)


def describe_values(values: Bytes, data_type: int, dims: Sequence[int]) -> bytes:
    """`describe_tensor` of a tensor with these values.

    Args:
        values: as in `raw_data`.
        data_type: of ONNX.
        dims: shape.
    """
    return _hash("tensor", [str(data_type).encode(), str(list(dims)).encode(), values.data])


def _domain(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain


def _hash(kind: str, parts: Iterable[bytes | memoryview]) -> bytes:
    """Digest of a list of byte strings: lengths go in, so that no two lists run together."""
    state = hashlib.blake2b(kind.encode(), digest_size=_DIGEST_BYTES)
    for part in parts:
        state.update(len(part).to_bytes(8, "little"))
        state.update(part)
    return state.digest()


class _Describer:
    """Describes graphs, nodes and attributes under given versions of the operator sets."""

    def __init__(self, opsets: Mapping[str, int]):
        self._opsets = opsets

    def graph(
        self,
        graph: GraphProto,
        outer: Mapping[str, bytes],
        by_name: bool,
        descriptions: Mapping[str, bytes] | None = None,
    ) -> bytes:
        """Description of a graph.

        Args:
            outer: descriptions of the tensors around it, by name.
            by_name: whether the names of inputs and outputs count; those of a subgraph do not.
            descriptions: of further initializers, by name.
        """
        known = dict(outer)
        constants = {tensor.name: describe_tensor(tensor) for tensor in graph.initializer}
        constants.update(descriptions or {})
        inputs = [value for value in graph.input if value.name not in constants]
        for i, value in enumerate(inputs):
            name = value.name if by_name else ""
            known[value.name] = _hash("input", [str(i).encode(), name.encode(), _describe_type(value)])
        known.update(constants)
        nodes = []
        for node in _in_order(graph):
            described = self.node(node, known)
            nodes.append(described)
            for i, name in enumerate(node.output):
                known[name] = _hash("output", [described, str(i).encode()])
        outputs = [
            _hash("result", [value.name.encode() if by_name else b"", known.get(value.name, _ABSENT)])
            for value in graph.output
        ]
        groups = ([known[value.name] for value in inputs], outputs, sorted(nodes), sorted(constants.values()))
        return _hash("graph", [_hash("list", group) for group in groups])

    def node(self, node: NodeProto, known: Mapping[str, bytes]) -> bytes:
        """Description of a node whose inputs are known; attributes that say the default do not count."""
        domain = _domain(node.domain)
        defaults = _default_attributes(node.op_type, self._opsets.get(domain, 0), domain)
        attributes = sorted(
            (a.name, self.attribute(a, known))
            for a in node.attribute
            if defaults.get(a.name) != _plain_bytes(a)
        )
        return _hash(
            "node",
            [
                domain.encode(),
                node.op_type.encode(),
                *(known.get(name, _ABSENT) for name in node.input),
                *(described for _, described in attributes),
                str([bool(name) for name in node.output]).encode(),
            ],
        )

    def attribute(self, attribute: AttributeProto, outer: Mapping[str, bytes]) -> bytes:
        head = [attribute.name.encode(), str(attribute.type).encode()]
        match attribute.type:
            case AttributeProto.TENSOR:
                return _hash("attribute", [*head, describe_tensor(attribute.t)])
            case AttributeProto.TENSORS:
                return _hash("attribute", [*head, *map(describe_tensor, attribute.tensors)])
            case AttributeProto.GRAPH:
                return _hash("attribute", [*head, self.graph(attribute.g, outer, by_name=False)])
            case AttributeProto.GRAPHS:
                graphs = (self.graph(graph, outer, by_name=False) for graph in attribute.graphs)
                return _hash("attribute", [*head, *graphs])
        return _hash("attribute", [_plain_bytes(attribute)])


def _in_order(graph: GraphProto) -> Iterable[NodeProto]:
    """The nodes in topological order."""
    skeleton = GraphProto()
    skeleton.node.extend(graph.node)
    sort_nodes(skeleton)
    return list(skeleton.node)


def _plain_bytes(attribute: AttributeProto) -> bytes:
    plain = AttributeProto()
    plain.CopyFrom(attribute)
    plain.ClearField("doc_string")
    data: bytes = plain.SerializeToString(deterministic=True)
    return data


@functools.cache
def _default_attributes(op_type: str, version: int, domain: str) -> Mapping[str, bytes]:
    """Serialized default of each attribute that has one; nothing for an operator that onnx does not know."""
    if not onnx.defs.has(op_type, version, domain):
        return {}
    attributes = onnx.defs.get_schema(op_type, version, domain).attributes.values()
    return {a.name: _plain_bytes(a.default_value) for a in attributes}


def _describe_type(value: ValueInfoProto) -> bytes:
    tensor = value.type.tensor_type
    dims = [d.dim_value if d.HasField("dim_value") else d.dim_param for d in tensor.shape.dim]
    return repr((value.type.WhichOneof("value"), tensor.elem_type, tensor.HasField("shape"), dims)).encode()


def _function_bytes(model: ModelProto) -> Iterable[bytes]:
    for function in model.functions:
        copy = type(function)()
        copy.CopyFrom(function)
        copy.ClearField("doc_string")
        yield copy.SerializeToString(deterministic=True)
