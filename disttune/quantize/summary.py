"""What the pure parts of disttune see of a model: `ModelSummary` and the specs of its inputs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto
from onnx.helper import get_attribute_value, tensor_dtype_to_np_dtype

from disttune.config.errors import ModelError
from disttune.quantize.size import model_bytes
from disttune.quantize.sources import WEIGHT_INPUTS, trace_sources
from disttune.quantize.tensor_memory import tensor_values
from disttune.quantize.topology import all_tensors, default_opset
from disttune.space.summary import ModelSummary, OpSummary, WeightSummary

FLOAT_BYTES = 4
MASK = 1e30  # values from here on stand for "nothing", not for a number


@dataclass(frozen=True, slots=True)
class InputSpec:
    """One input of the model.

    Args:
        name: as feeds name it.
        dtype: of the array to feed, as numpy writes it ("float32"); "object" for strings.
        shape: a number, the name of a symbolic dimension, or None where nothing is known.
    """

    name: str
    dtype: str
    shape: tuple[int | str | None, ...]


def input_specs(model: ModelProto) -> tuple[InputSpec, ...]:
    """The inputs that a feed has to give, in the model's order.

    Raises:
        ModelError: an input is not a tensor.
    """
    initializers = {tensor.name for tensor in model.graph.initializer}
    return tuple(_input_spec(value) for value in model.graph.input if value.name not in initializers)


def summarize(prepared: ModelProto, original: ModelProto) -> ModelSummary:
    """Describe the prepared model in the user's names.

    Args:
        prepared: made by `graph.prepare` from `original`; its node names equal the op names.
        original: the user's model.
    """
    shapes = _shapes(prepared.graph)
    weights = {t.name: t for t in prepared.graph.initializer if t.data_type == TensorProto.FLOAT}
    floats = _float_names(prepared.graph)
    masks = _masks(prepared.graph)
    ops = []
    for node, traced in zip(prepared.graph.node, trace_sources(prepared, original), strict=True):
        weight = _weight(node, weights)
        ops.append(
            OpSummary(
                name=traced.name,
                op_type=node.op_type,
                inputs=tuple(node.input),
                outputs=tuple(node.output),
                weight=weight,
                n_macs=_count_macs(node, shapes),
                sources=traced.sources,
                has_float_data=not floats.isdisjoint((*node.input, *node.output))
                and masks.isdisjoint(node.input),
            )
        )
    return ModelSummary(
        ops=tuple(ops),
        inputs=tuple(spec.name for spec in input_specs(prepared)),
        outputs=tuple(value.name for value in prepared.graph.output),
        opset=default_opset(prepared),
        size_bytes=model_bytes(original),
        n_parameters=sum(math.prod(tensor.dims) for tensor in all_tensors(prepared.graph)),
    )


def channel_axis(node: NodeProto, rank: int) -> int | None:
    """Axis of a node's weight that has one scale per channel; None where there is none.

    A MatMul's weight of three or more dimensions has none: onnxruntime's kernels take no vector of scales
    for it (its quantizer takes axis 1 all the same, and the model does not run).
    """
    match node.op_type:
        case "Conv" | "Gather" | "GatherElements" | "GatherND" | "LSTM" | "GRU" | "RNN":
            return 0
        case "ConvTranspose" | "Attention":
            return 1
        case "MatMul":
            return 1 if rank == 2 else None
        case "Gemm":
            return 0 if int_attribute(node, "transB", 0) else 1
    return None


def group_axis(node: NodeProto, rank: int) -> int | None:
    """Axis of a node's weight along which groups with a scale each run; None where there are no groups."""
    match node.op_type:
        case "MatMul":
            return max(rank - 2, 0)
        case "Gemm":
            return 1 if int_attribute(node, "transB", 0) else 0
        case "Gather" | "GatherElements" | "GatherND":
            return rank - 1
        case "Conv":
            return 1
        case "ConvTranspose":
            return 0
    return None


def int_attribute(node: NodeProto, name: str, default: int) -> int:
    """Value of an integer attribute, or the operator's default."""
    return int(next((get_attribute_value(a) for a in node.attribute if a.name == name), default))


def _input_spec(value: ValueInfoProto) -> InputSpec:
    if not value.type.HasField("tensor_type"):
        kind = (value.type.WhichOneof("value") or "value of no type").removesuffix("_type")
        raise ModelError(
            f'the model\'s input "{value.name}" is a {kind}. Only tensors can be fed: export it so.'
        )
    tensor = value.type.tensor_type
    dtype = str(tensor_dtype_to_np_dtype(tensor.elem_type))
    return InputSpec(value.name, dtype, _dimensions(value))


def _dimensions(value: ValueInfoProto) -> tuple[int | str | None, ...]:
    dimensions = value.type.tensor_type.shape.dim
    return tuple(d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in dimensions)


def _shapes(graph: GraphProto) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor with a known rank; 1 stands for an unknown dimension."""
    shapes = {
        value.name: tuple(d if isinstance(d, int) and d > 0 else 1 for d in _dimensions(value))
        for value in (*graph.input, *graph.value_info, *graph.output)
        if value.type.tensor_type.HasField("shape")
    }
    shapes.update((tensor.name, tuple(tensor.dims)) for tensor in graph.initializer)
    return shapes


def _masks(graph: GraphProto) -> set[str]:
    """Float constants, weights apart, with values that no scale should be made for."""
    weights = {n.input[i] for n in graph.node for i in WEIGHT_INPUTS.get(n.op_type, ()) if i < len(n.input)}
    floats = [t for t in graph.initializer if t.data_type == TensorProto.FLOAT and t.name not in weights]
    return {t.name for t in floats if not (np.abs(tensor_values(t)) < MASK).all()}


def _float_names(graph: GraphProto) -> set[str]:
    values = (*graph.input, *graph.value_info, *graph.output)
    names = {value.name for value in values if value.type.tensor_type.elem_type == TensorProto.FLOAT}
    return names | {tensor.name for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT}


def _weight(node: NodeProto, weights: dict[str, TensorProto]) -> WeightSummary | None:
    indices = [i for i in WEIGHT_INPUTS.get(node.op_type, ()) if i < len(node.input)]
    if not indices or any(node.input[i] not in weights for i in indices):
        return None
    shape = tuple(weights[node.input[indices[0]]].dims)
    axis = channel_axis(node, len(shape))
    return WeightSummary(
        name=node.input[indices[0]],
        input_index=indices[0],
        shape=shape,
        n_channels=shape[axis] if axis is not None and axis < len(shape) else 1,
        size_bytes=FLOAT_BYTES * sum(math.prod(weights[node.input[i]].dims) for i in indices),
    )


def _count_macs(node: NodeProto, shapes: dict[str, tuple[int, ...]]) -> int:
    """Multiply-adds for one sample: the first dimension of the activations counts as 1."""
    if node.op_type not in ("Conv", "ConvTranspose", "MatMul", "Gemm"):
        return 0
    first, second, output = (shapes.get(name) for name in (node.input[0], node.input[1], node.output[0]))
    if first is None or second is None or output is None:
        return 0
    match node.op_type:
        case "Conv":  # every output position of a channel: one filter
            return math.prod(output[2:]) * math.prod(second)
        case "ConvTranspose":  # every input position of a channel: one filter
            return math.prod(first[2:]) * math.prod(second)
        case "Gemm":
            inner = first[0] if int_attribute(node, "transA", 0) else first[1]
            return inner * _one_sample(output)
    return first[-1] * _one_sample(output)


def _one_sample(shape: Sequence[int]) -> int:
    return math.prod(shape[1:]) if len(shape) > 1 else math.prod(shape)
