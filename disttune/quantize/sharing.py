"""Which tensors of a candidate get codes, and which take their scale and zero point from another tensor.

Only names; no numbers. The rules are those of onnxruntime's QDQ quantizer, op type by op type, so that its
CPU provider finds the patterns that it fuses:
1. Any op: its float inputs and outputs get codes. A bias gets int32 codes at the scale of data times
   weight, where both have codes.
2. An op that only moves values (Reshape, Transpose, MaxPool, Gather of an activation ...) is quantized
   where its input already has codes; its output shares the input's parameters. Gather of a table and
   Split give their input codes themselves; Where needs codes on both branches.
3. Pad shares where what it pads with has a code: a value of the input, or zero.
4. Relu and Clip are quantized where their input has codes. They go away where the lowest code of their
   output means zero and nothing else reads their input: quantizing clips as they do. Their input takes
   the range of their output where they stay, unless it is an output of the model.
5. The output of Softmax has the range 0 to 1.
6. An op of a type that keeps its outputs in float gives them no codes; an op that reads one still may.
What onnxruntime's quantizer does otherwise: it fails on a Relu of a constant; it removes a Relu whose
input a graph inside a node reads; it clips an output of the model to the range of a Relu or Clip behind it;
with rule 6 it removes a Relu that then nothing stands for, and Gather
gives its output codes all the same.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from disttune.quantize.builder.float_model import FloatModel, FloatNode
from disttune.quantize.builder.tensor_schemes import WeightCopies
from disttune.quantize.sources import WEIGHT_INPUTS
from disttune.quantize.tensor_memory import tensor_values

UNIT_RANGE = "0 to 1"


@dataclass(frozen=True, slots=True)
class Bias:
    """A bias with int32 codes.

    Args:
        name: the constant.
        data: tensor whose scale is one factor of the bias's.
        weight: constant whose scale is the other factor.
        beta: its factor in the op, which goes into the codes.
    """

    name: str
    data: str
    weight: str
    beta: float = 1.0


@dataclass(slots=True)
class Marks:
    """What gets codes.

    Args:
        tensors: activations and constants, in the order in which ops ask for them; to the tensor whose
            parameters it takes, or None for its own.
        biases: by name of the node.
        readers: for each tensor the ops that read its codes, as often as they do.
        replaced: output of a node to the output of the Relu or Clip that went away behind it.
        removed: names of those.
    """

    tensors: dict[str, str | None] = field(default_factory=dict)
    biases: dict[str, Bias] = field(default_factory=dict)
    readers: dict[str, list[str]] = field(default_factory=dict)
    replaced: dict[str, str] = field(default_factory=dict)
    removed: set[str] = field(default_factory=set)

    def written(self, tensor: str) -> str:
        """The tensor that a node writes instead of its own output."""
        while tensor in self.replaced:
            tensor = self.replaced[tensor]
        return tensor


def range_sources(model: FloatModel, ops: Collection[str], ranged: Collection[str]) -> dict[str, str]:
    """Rules 4 and 5: for each tensor the one whose range it takes, or `UNIT_RANGE`.

    Args:
        ops: names of the static ops.
        ranged: tensors that have a range of their own.
    Returns:
        A key for every tensor that has a range.
    """
    sources = {name: name for name in ranged}
    for node in model.nodes:
        if node.name not in ops:
            continue
        if node.op_type == "Softmax":
            sources[node.outputs[0]] = UNIT_RANGE
        elif node.op_type in ("Relu", "Clip") and model.n_reads[node.inputs[0]] == 1:
            before, after = node.inputs[0], node.outputs[0]
            if before in sources and after in sources and before not in model.outputs:
                sources[before] = sources[after]
    return sources


def mark_tensors(
    model: FloatModel,
    ops: Collection[str],
    copies: WeightCopies,
    *,
    weights_only: Collection[str] = (),
    ranged: Collection[str],
    data_constants: Collection[str],
    vectors: Collection[str] = (),
    removes_activations: bool,
    quantizes_biases: bool = True,
    excluded: Collection[str] = (),
    float_outputs: Collection[str] = (),
) -> Marks:
    """Rules 1 to 4 and 6 for the static ops of a candidate, and the weights of its weight-only ones.

    Args:
        ops: names of the static ops.
        copies: of shared weights.
        weights_only: names of the ops whose weight alone gets codes.
        ranged: activations that have a range.
        data_constants: constants with a scheme of their own; as a bias they count as data.
        vectors: those of them that have several scales, which nothing can share.
        removes_activations: whether the lowest code of every tensor means zero after a Relu.
        quantizes_biases: whether biases get int32 codes; data elsewhere has codes all the same.
        excluded: tensors that stay in float.
        float_outputs: op types of rule 6.
    """
    floats = (model.floats | model.float_constants | copies.origins.keys()).difference(excluded)
    marker = _Marker(model, floats, ranged, data_constants, vectors, removes_activations, quantizes_biases)
    for node in model.nodes:
        if node.name in ops:
            marker.mark(node, copies.inputs_of(node), node.outputs if node.op_type in float_outputs else ())
        elif node.name in weights_only:
            marker.mark_weights(node, copies.inputs_of(node))
    return marker.marks


Inputs = tuple[str, ...]


class _Marker:
    def __init__(
        self,
        model: FloatModel,
        floats: Collection[str],
        ranged: Collection[str],
        data_constants: Collection[str],
        vectors: Collection[str],
        removes_activations: bool,
        quantizes_biases: bool,
    ):
        self.model = model
        self.floats = floats
        self.ranged = ranged
        self.data_constants = data_constants
        self.vectors = vectors
        self.removes_activations = removes_activations
        self.quantizes_biases = quantizes_biases
        self.marks = Marks()
        self.in_float: Collection[str] = ()
        self._named_biases: set[str] = set()

    def mark(self, node: FloatNode, inputs: Inputs, in_float: Collection[str] = ()) -> None:
        """Apply an op's rule; these of its outputs get no codes of it."""
        self.in_float = in_float
        _RULES.get(node.op_type, _any_op)(self, node, inputs)
        for name in inputs:
            self.marks.readers.setdefault(name, []).append(node.name)

    def mark_weights(self, node: FloatNode, inputs: Inputs) -> None:
        for i in WEIGHT_INPUTS.get(node.op_type, ()):
            if i in node.float_constants:
                self.codes(inputs[i])

    def codes(self, *names: str) -> None:
        """Parameters of its own, unless the tensor is marked already."""
        for name in names:
            if name in self.floats and name not in self.in_float:
                self.marks.tensors.setdefault(name, None)

    def has_codes(self, name: str) -> bool:
        return name in self.marks.tensors or name in self._named_biases

    def share(self, output: str, source: str) -> None:
        if source in self.vectors:
            self.codes(output)
        elif output in self.floats and output not in self.in_float:
            self.marks.tensors[output] = source

    def bias(self, node: FloatNode, name: str, data: str, weight: str, beta: float = 1.0) -> None:
        """int32 codes; or as any other tensor, if it is data elsewhere or no constant."""
        if name in self.data_constants or name in self.ranged:
            self.codes(name)
        elif self.quantizes_biases and name in self.floats and name in self.model.float_constants:
            self.marks.biases[node.name] = Bias(name, data, weight, beta)
            self._named_biases.add(name)

    def replace(self, before: str, after: str) -> bool:
        """Let the node that writes `before` write `after`, if nobody misses it."""
        model = self.model
        if (
            not self.removes_activations
            or before not in self.ranged
            or after not in self.ranged
            or model.n_reads[before] != 1
            or before in model.inputs
            or before in model.outputs
            or after in self.in_float
        ):
            return False
        self.marks.replaced[before] = after
        self.marks.tensors.pop(before, None)
        return True


def _any_op(marker: _Marker, node: FloatNode, inputs: Inputs) -> None:
    marker.codes(*inputs, *node.outputs)


def _convolution(marker: _Marker, node: FloatNode, inputs: Inputs) -> None:
    marker.codes(inputs[0], node.outputs[0], inputs[1])
    if len(inputs) == 3:
        marker.bias(node, inputs[2], inputs[0], inputs[1])


def _gemm(marker: _Marker, node: FloatNode, inputs: Inputs) -> None:
    marker.codes(inputs[0], node.outputs[0], inputs[1])
    if len(inputs) == 3 and inputs[2] in marker.model.constants:
        beta = next((a.f for a in node.message.attribute if a.name == "beta"), 1.0)
        marker.bias(node, inputs[2], inputs[0], inputs[1], beta)


def _normalization(marker: _Marker, node: FloatNode, inputs: Inputs) -> None:
    marker.codes(inputs[0], inputs[1])
    if len(inputs) > 2 and inputs[2]:
        marker.bias(node, inputs[2], inputs[0], inputs[1])
    marker.codes(*node.outputs)


def _moved(marker: _Marker, node: FloatNode, inputs: Inputs) -> None:
    if marker.has_codes(inputs[0]):
        marker.share(node.outputs[0], inputs[0])


def _gather(marker: _Marker, node: FloatNode, inputs: Inputs) -> None:
    if 0 in node.float_constants:
        marker.codes(inputs[0])
        marker.share(node.outputs[0], inputs[0])
    else:
        _moved(marker, node, inputs)


def _split(marker: _Marker, node: FloatNode, inputs: Inputs) -> None:
    if not marker.has_codes(inputs[0]):
        marker.codes(inputs[0])
    for output in node.outputs:
        marker.share(output, inputs[0])


def _where(marker: _Marker, node: FloatNode, inputs: Inputs) -> None:
    if marker.has_codes(inputs[1]) and marker.has_codes(inputs[2]):
        marker.codes(*node.outputs)


def _pad(marker: _Marker, node: FloatNode, inputs: Inputs) -> None:
    marker.codes(*inputs)
    if _pads_with_known_codes(marker.model, node):
        marker.share(node.outputs[0], inputs[0])
    else:
        marker.codes(node.outputs[0])


def _clipping(marker: _Marker, node: FloatNode, inputs: Inputs) -> None:
    before, after = inputs[0], node.outputs[0]
    if not marker.has_codes(before):
        return
    if marker.replace(before, after):
        marker.marks.removed.add(node.name)
    else:
        marker.codes(before)
    marker.codes(after)


def _pads_with_known_codes(model: FloatModel, node: FloatNode) -> bool:
    match next((a.s for a in node.message.attribute if a.name == "mode"), b"constant"):
        case b"reflect" | b"edge" | b"wrap":
            return True
        case b"constant":
            if node.inputs[0] not in model.floats:
                return False
            if len(node.inputs) < 3 or not node.inputs[2]:
                return True
            value = model.constants.get(node.inputs[2])
            return value is not None and float(tensor_values(value).item()) == 0
    return False


_RULES: Mapping[str, Callable[[_Marker, FloatNode, Inputs], None]] = {
    "AveragePool": _moved,
    "BatchNormalization": _normalization,
    "Clip": _clipping,
    "Conv": _convolution,
    "ConvTranspose": _convolution,
    "Flatten": _moved,
    "Gather": _gather,
    "GatherElements": _gather,
    "Gemm": _gemm,
    "InstanceNormalization": _normalization,
    "LayerNormalization": _normalization,
    "MaxPool": _moved,
    "Pad": _pad,
    "Relu": _clipping,
    "Reshape": _moved,
    "Resize": _moved,
    "Slice": _moved,
    "Split": _split,
    "Squeeze": _moved,
    "TopK": _moved,
    "Transpose": _moved,
    "Unsqueeze": _moved,
    "Where": _where,
}
