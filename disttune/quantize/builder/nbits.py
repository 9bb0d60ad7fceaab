"""MatMulNBits: a MatMul or Gemm whose weight alone has codes, as one node of com.microsoft.

A Gather that looks up rows of a table becomes a GatherBlockQuantized: what it reads alone gets values.
What has no such form (a weight of three dimensions, other types or sizes of groups, a Gemm with transA, alpha
or beta) stays a DequantizeLinear in front of the op. The bias of a Gemm is added behind the node.
"""

from collections.abc import Mapping, Sequence

from disttune.config.schemes import FLOAT8_DTYPES, OpConfig, Scheme
from disttune.config.weight_methods import WEIGHT_METHODS
from disttune.quantize.builder.constants import ConstantStore, Floats
from disttune.quantize.builder.float_model import FloatModel, FloatNode
from disttune.quantize.builder.nbits_tensors import LEAST_BLOCK, Form, NBits
from disttune.quantize.builder.tensor_schemes import ConstantScheme, WeightCopies, weight_axis
from disttune.quantize.builder.writer import MS_DOMAIN, ModelWriter
from disttune.quantize.summary import int_attribute

OP_TYPES = ("MatMul", "Gemm")
_TABLE_DTYPES = ("int4", "uint4", "int8", "uint8")


def nbits_ops(model: FloatModel, configs: Mapping[str, OpConfig]) -> frozenset[str]:
    """Names of the ops that become MatMulNBits.

    Args:
        configs: of a candidate's quantized ops, by node name.
    """
    return frozenset(
        node.name
        for node in model.nodes
        if node.name in configs and _has_form(model, node, configs[node.name])
    )


class NBitsWriter:
    """Writes the ops of one candidate that become MatMulNBits; equal weights once.

    Args:
        writer: of the candidate's model.
        store: quantized constants.
        copies: of shared weights.
        configs: of these ops, by node name.
        accuracy_level: attribute of the nodes; 0 leaves it out.
    """

    def __init__(
        self,
        writer: ModelWriter,
        store: ConstantStore,
        copies: WeightCopies,
        configs: Mapping[str, OpConfig],
        accuracy_level: int,
    ):
        self._writer = writer
        self._store = store
        self._copies = copies
        self._configs = configs
        self._accuracy_level = accuracy_level
        self._names: dict[tuple[str, ConstantScheme, Form], tuple[str, ...]] = {}

    def input_scale(self, node: FloatNode) -> Floats | None:
        """What an op's data has to be divided by."""
        return self._store.input_scale(*self._weight(node))

    def write(self, node: FloatNode, reads: Sequence[str], outputs: Sequence[str]) -> None:
        """Write an op in this form.

        Args:
            node: of the float model.
            reads: what it reads instead of its inputs; that of the weight does not count.
            outputs: what it writes instead of its outputs.
        """
        constants = self._store.nbits(*self._weight(node), _form(node))
        if node.op_type == "Gather":
            self._write_table(node, reads, outputs, constants)
            return
        inputs = (reads[0], *self._constants(node, constants))
        attributes = {"K": constants.n_rows, "N": constants.n_columns, "bits": constants.bits}
        attributes["block_size"] = constants.block_size
        if level := self._level(node):
            attributes["accuracy_level"] = level
        bias = reads[2] if len(reads) > 2 else ""
        product = self._writer.new_name(f"{node.name}_product") if bias else outputs[0]
        name = f"{node.name}_Q{constants.bits}"
        self._writer.add_node("MatMulNBits", inputs, (product,), name, attributes, MS_DOMAIN)
        if bias:
            self._writer.add_node("Add", (product, bias), outputs, f"{node.name}_Add")

    def _write_table(
        self, node: FloatNode, reads: Sequence[str], outputs: Sequence[str], constants: NBits
    ) -> None:
        codes, *rest = self._constants(node, constants)
        attributes = {
            "gather_axis": 0,
            "quantize_axis": 1,
            "block_size": constants.block_size,
            "bits": constants.bits,
        }
        name = f"{node.name}_Q{constants.bits}"
        self._writer.add_node(
            "GatherBlockQuantized", (codes, reads[1], *rest), outputs, name, attributes, MS_DOMAIN
        )

    def _level(self, node: FloatNode) -> int:
        """Accuracy level that the op's own scheme asks for, else the job's."""
        scheme = self._configs[node.name].weight
        assert scheme is not None
        own = scheme.option("accuracy_level") if scheme.method in WEIGHT_METHODS else 0
        return int(own) or self._accuracy_level

    def _weight(self, node: FloatNode) -> tuple[str, ConstantScheme]:
        """Name in the float model, and scheme."""
        scheme = self._configs[node.name].weight
        assert scheme is not None
        weight = self._copies.origin(self._copies.inputs_of(node)[_position(node)])
        return weight, ConstantScheme(scheme, weight_axis(node, scheme, 2))

    def _constants(self, node: FloatNode, constants: NBits) -> tuple[str, ...]:
        """Names of codes, scales and zero points in the model."""
        weight, scheme = self._weight(node)
        key = (weight, scheme, _form(node))
        if key not in self._names:
            named = [(f"{weight}_Q{constants.bits}", constants.codes), (f"{weight}_scales", constants.scale)]
            if constants.zero_point is not None:
                named.append((f"{weight}_zero_points", constants.zero_point))
            self._names[key] = tuple(self._writer.add_tensor(name, tensor) for name, tensor in named)
        return self._names[key]


def _position(node: FloatNode) -> int:
    """Which input of a node is its weight."""
    return 0 if node.op_type == "Gather" else 1


def _form(node: FloatNode) -> Form:
    """How a node's weight is held."""
    if node.op_type == "Gather":
        return "table"
    return "turned" if int_attribute(node.message, "transB", 0) == 1 else "matrix"


def _has_form(model: FloatModel, node: FloatNode, config: OpConfig) -> bool:
    if config.approach != "weight_only" or _position(node) not in node.float_constants:
        return False
    if node.op_type == "Gather":
        return _has_table_form(model, node, config)
    if node.op_type not in OP_TYPES:
        return False
    shape = tuple(model.constants[node.inputs[1]].dims)
    if len(shape) != 2 or 0 in shape or config.weight is None or not _fits(config.weight):
        return False
    if node.op_type == "MatMul":
        return True
    factors = {a.name: a.f for a in node.message.attribute if a.name in ("alpha", "beta")}
    has_bias = len(node.inputs) > 2 and bool(node.inputs[2])
    return (
        int_attribute(node.message, "transA", 0) == 0
        and factors.get("alpha", 1.0) == 1.0
        and (not has_bias or factors.get("beta", 1.0) == 1.0)
    )


def _fits(scheme: Scheme) -> bool:
    if scheme.dtype in FLOAT8_DTYPES or scheme.dtype.endswith("16"):
        return False
    size = scheme.group_size if scheme.granularity == "per_group" else LEAST_BLOCK
    return size is not None and size >= LEAST_BLOCK and size & (size - 1) == 0


def _has_table_form(model: FloatModel, node: FloatNode, config: OpConfig) -> bool:
    """Whole groups of 4 or 8 bits in rows that are looked up."""
    shape, scheme = tuple(model.constants[node.inputs[0]].dims), config.weight
    if len(shape) != 2 or 0 in shape or scheme is None or scheme.granularity != "per_group":
        return False
    fits = scheme.dtype in _TABLE_DTYPES and _fits(scheme) and shape[1] % (scheme.group_size or 1) == 0
    return fits and int_attribute(node.message, "axis", 0) == 0
