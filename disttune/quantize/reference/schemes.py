"""How onnxruntime's quantizer is told which tensor takes which scheme.

What activations take, and which weights are copied, is decided where the fast engine decides it:
`builder.tensor_schemes`. Beside that:
1. Tensors that only pass values on (after Reshape, Transpose, MaxPool ...) share their input's.
2. A constant operand that is neither weight nor bias (of an Add, say) takes its op's activation scheme;
   one that several ops read, the first's.
"""

from collections.abc import Mapping
from typing import Any

from onnx import ModelProto, NodeProto, TensorProto
from onnxruntime.quantization import QuantType

from disttune.config.errors import TrialError
from disttune.config.schemes import OpConfig, Scheme
from disttune.quantize.builder.tensor_schemes import WeightCopies
from disttune.quantize.sources import FIRST_BIAS, WEIGHT_INPUTS
from disttune.quantize.summary import channel_axis

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


def tensor_overrides(
    model: ModelProto, configs: Mapping[str, OpConfig], activations: Mapping[str, Scheme]
) -> Overrides:
    """`TensorQuantOverrides` for everything that the ops quantize but biases; nothing is left to a default.

    A bias that another op reads as data has one too, and is then quantized as a weight: onnxruntime's
    quantizer without it waits for ever for the parameters of that data.

    Args:
        model: the float model, after `use_copies`.
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


def use_copies(model: ModelProto, copies: WeightCopies) -> None:
    """Let nodes read their copies of shared weights, in place."""
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for name, origin in copies.origins.items():
        copy = model.graph.initializer.add()
        copy.CopyFrom(tensors[origin])
        copy.name = name
    for node in model.graph.node:
        if node.name in copies.inputs:
            del node.input[:]
            node.input.extend(copies.inputs[node.name])


def _constant_scheme(node: NodeProto, position: int, config: OpConfig) -> Scheme | None:
    if position in WEIGHT_INPUTS.get(node.op_type, ()):
        return config.weight or config.activation
    if position >= FIRST_BIAS.get(node.op_type, len(node.input)):
        return None
    return config.activation  # rule 2


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
