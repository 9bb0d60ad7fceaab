"""Which tensor takes which scheme, and how onnxruntime's quantizer is told.

Rules:
1. An activation takes the scheme of its first consumer, in graph order, that is quantized statically;
   where there is none, that of its producer. One tensor has one scheme, as in `quantize_static`: a
   consumer in float reads the quantized tensor too.
2. Tensors that only pass values on (after Reshape, Transpose, MaxPool ...) share their input's.
3. A constant operand that is neither weight nor bias (of an Add, say) takes its op's activation scheme;
   one that several ops read, the first's.
4. A weight that several ops of the space read in different ways (scheme, static or dynamic, float) is
   copied, one for each way; ops that are not in the space go with the first.
"""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from onnx import ModelProto, NodeProto, TensorProto
from onnxruntime.quantization import QuantType

from disttune.config.errors import TrialError
from disttune.config.schemes import OpConfig, Scheme
from disttune.quantize.sources import FIRST_BIAS, WEIGHT_INPUTS
from disttune.quantize.summary import channel_axis
from disttune.quantize.topology import unused_name
from disttune.space.candidate import Candidate

QUANT_TYPES = {
    "int8": QuantType.QInt8,
    "uint8": QuantType.QUInt8,
    "int16": QuantType.QInt16,
    "uint16": QuantType.QUInt16,
    "int4": QuantType.QInt4,
    "uint4": QuantType.QUInt4,
}  # not float8: onnxruntime's CPU provider fuses it into integer operators that refuse it
Overrides = dict[str, list[dict[str, Any]]]


def quant_type(op: str, scheme: Scheme) -> QuantType:
    """onnxruntime's name of a scheme's type.

    Raises:
        TrialError: its quantizer does not know the type, or quantizes in groups.
    """
    if scheme.dtype not in QUANT_TYPES:
        raise TrialError(
            f'op {op}: engine "reference" has no {scheme.dtype}; it has {", ".join(QUANT_TYPES)}'
        )
    if scheme.granularity == "per_group":
        raise TrialError(f'op {op}: engine "reference" does not quantize in groups')
    return QUANT_TYPES[scheme.dtype]


def activation_schemes(model: ModelProto, configs: Mapping[str, OpConfig]) -> dict[str, Scheme]:
    """Rule 1: scheme of every activation around the ops, in graph order.

    Args:
        model: the float model.
        configs: static configs by node name.
    """
    constants = {tensor.name for tensor in model.graph.initializer}
    nodes = [(node, configs[node.name].activation) for node in model.graph.node if node.name in configs]
    reads = [(name, scheme) for node, scheme in nodes for name in node.input]
    writes = [(name, scheme) for node, scheme in nodes for name in node.output]
    schemes: dict[str, Scheme] = {}
    for name, scheme in reads + writes:
        if name and name not in constants and scheme is not None:
            schemes.setdefault(name, scheme)
    return schemes


def tensor_overrides(
    model: ModelProto, configs: Mapping[str, OpConfig], activations: Mapping[str, Scheme]
) -> Overrides:
    """`TensorQuantOverrides` for everything that the ops quantize but biases; nothing is left to a default.

    A bias that another op reads as data has one too, and is then quantized as a weight: onnxruntime's
    quantizer without it waits for ever for the parameters of that data.

    Args:
        model: the float model, after `copy_shared_weights`.
        configs: static configs by node name.
        activations: the schemes of the activations that exist as float tensors.
    """
    overrides: Overrides = {
        name: [{"quant_type": QUANT_TYPES[scheme.dtype], "symmetric": scheme.symmetric}]
        for name, scheme in activations.items()
    }
    constants = {t.name: len(t.dims) for t in model.graph.initializer if t.data_type == TensorProto.FLOAT}
    for node in model.graph.node:
        if node.name not in configs:
            continue
        for i, name in enumerate(node.input):
            scheme = _constant_scheme(node, i, configs[node.name])
            if name in constants and scheme is not None:
                overrides.setdefault(name, [_constant_override(node, i, constants[name], scheme)])
    return overrides


def copy_shared_weights(model: ModelProto, candidate: Candidate) -> None:
    """Rule 4, in place."""
    tensors = {t.name: t for t in model.graph.initializer if t.data_type == TensorProto.FLOAT}
    taken = {t.name for t in model.graph.initializer} | {n for node in model.graph.node for n in node.output}
    names: dict[str, dict[tuple[Any, ...], str]] = defaultdict(dict)  # weight, then way: name of the copy
    ops = set(candidate.ops)
    for node in model.graph.node:
        if node.name not in ops:
            continue
        for i in WEIGHT_INPUTS.get(node.op_type, ()):
            if i >= len(node.input) or node.input[i] not in tensors:
                continue
            weight = tensors[node.input[i]]
            copies = names[weight.name]
            way = _way(node, candidate.config_of(node.name), len(weight.dims))
            if way not in copies:
                copies[way] = unused_name(weight.name, taken) if copies else weight.name
                taken.add(copies[way])
                if copies[way] != weight.name:
                    copy = model.graph.initializer.add()
                    copy.CopyFrom(weight)
                    copy.name = copies[way]
            node.input[i] = copies[way]


def _way(node: NodeProto, config: OpConfig, rank: int) -> tuple[Any, ...]:
    """Equal for two readers of a weight exactly when one copy does for both."""
    scheme = config.weight or config.activation
    if not config.quantized or scheme is None:
        return ("float",)
    axis = channel_axis(node, rank) if scheme.granularity == "per_channel" else None
    return (config.approach, scheme, axis)


def _constant_scheme(node: NodeProto, position: int, config: OpConfig) -> Scheme | None:
    if position in WEIGHT_INPUTS.get(node.op_type, ()):
        return config.weight or config.activation
    if position >= FIRST_BIAS.get(node.op_type, len(node.input)):
        return None
    return config.activation  # rule 3


def _constant_override(node: NodeProto, position: int, rank: int, scheme: Scheme) -> dict[str, Any]:
    override: dict[str, Any] = {
        "quant_type": quant_type(node.name, scheme),
        "symmetric": scheme.symmetric,
    }
    if scheme.reduce_range:
        override["reduce_range"] = True
    axis = channel_axis(node, rank) if position in WEIGHT_INPUTS.get(node.op_type, ()) else None
    if scheme.granularity == "per_channel" and axis is not None:
        override["axis"] = axis
    return override
