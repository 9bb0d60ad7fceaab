"""Dynamic quantization of some ops of a model: one pass of `ONNXQuantizer` for each weight scheme."""

from collections import defaultdict
from collections.abc import Mapping

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantizationMode, QuantType
from onnxruntime.quantization.onnx_quantizer import ONNXQuantizer

from disttune.config.errors import TrialError
from disttune.config.schemes import OpConfig, Scheme
from disttune.quantize.dynamic_forms import check_dynamic_form
from disttune.quantize.preprocess import first_line
from disttune.quantize.reference.schemes import quant_type
from disttune.quantize.sources import WEIGHT_INPUTS
from disttune.quantize.summary import int_attribute
from disttune.quantize.topology import sort_nodes


def quantize_dynamic_ops(model: ModelProto, configs: Mapping[str, OpConfig]) -> ModelProto:
    """Replace some ops by ones that quantize their activations at each run.

    For ops that all have the same config the result is that of `quantize_dynamic` on them.

    Args:
        model: with types of all tensors; used up.
        configs: dynamic configs by node name, not empty.
    Raises:
        TrialError: onnxruntime has no dynamic form of an op with its config.
    """
    nodes = {node.name: node for node in model.graph.node}
    constants = {tensor.name for tensor in model.graph.initializer}
    passes: dict[Scheme, list[str]] = defaultdict(list)
    for op, config in configs.items():
        passes[_checked_weight(nodes[op], config, constants)].append(op)
    for scheme, ops in passes.items():
        try:
            model = _quantized(model, scheme, ops)
        except Exception as error:
            cause = f"{type(error).__name__}: {first_line(error)}"
            raise TrialError(f"dynamic quantization of op {ops[0]} failed in onnxruntime: {cause}") from error
    return model


def _checked_weight(node: NodeProto, config: OpConfig, constants: set[str]) -> Scheme:
    positions = WEIGHT_INPUTS.get(node.op_type, ())
    has_constant_weight = all(node.input[i] in constants for i in positions)
    weight = check_dynamic_form(node.name, node.op_type, config, has_constant_weight=has_constant_weight)
    return Scheme(weight.dtype, weight.symmetric, weight.granularity, reduce_range=weight.reduce_range)


def _quantized(model: ModelProto, weight: Scheme, ops: list[str]) -> ModelProto:
    _replace_gemms(model, set(ops))
    types = {node.op_type for node in model.graph.node if node.name in ops}
    quantizer = ONNXQuantizer(
        model,
        per_channel=weight.granularity == "per_channel",
        reduce_range=weight.reduce_range,
        mode=QuantizationMode.IntegerOps,
        # Not static; but told so at first, because a dynamic quantizer starts by replacing every Gemm of
        # the model, also those that stay in float or are static.
        static=True,
        weight_qType=quant_type(ops[0], weight),
        activation_qType=QuantType.QUInt8,
        tensors_range=None,
        nodes_to_quantize=ops,
        nodes_to_exclude=[],
        op_types_to_quantize=sorted(types),
        extra_options={"WeightSymmetric": weight.symmetric, "MatMulConstBOnly": True},
    )
    quantizer.static = False
    quantized: ModelProto = quantizer.quantize_model()
    sort_nodes(quantized.graph)
    return quantized


def _replace_gemms(model: ModelProto, ops: set[str]) -> None:
    """Gemm -> MatMul + Add for some nodes, in place; the MatMul keeps the name.

    Source: `ONNXModel.replace_gemm_with_matmul` of onnxruntime, which does it for all nodes, and
    transposes a weight in place as often as it is read.
    """
    gemms = [node for node in model.graph.node if node.name in ops and node.op_type == "Gemm"]
    for gemm in gemms:
        factors = [a.f for a in gemm.attribute if a.name in ("alpha", "beta")]
        if int_attribute(gemm, "transA", 0) or any(factor != 1.0 for factor in factors):
            raise ValueError(f"Gemm {gemm.name} has transA, alpha or beta: it has no dynamic form")
        if int_attribute(gemm, "transB", 0):
            gemm.input[1] = _transposed(model, gemm.input[1])
        inputs, output = list(gemm.input), gemm.output[0]
        gemm.op_type = "MatMul"
        del gemm.attribute[:]
        if len(inputs) > 2 and inputs[2]:
            gemm.output[0] = output + "_MatMul"
            model.graph.value_info.append(
                helper.make_tensor_value_info(gemm.output[0], TensorProto.FLOAT, None)
            )
            model.graph.node.append(
                helper.make_node("Add", [gemm.output[0], inputs[2]], [output], gemm.name + "_Add")
            )
        del gemm.input[2:]
    sort_nodes(model.graph)


def _transposed(model: ModelProto, name: str) -> str:
    """Name of a transposed copy of a constant matrix, made when there is none."""
    copy_name = name + "_transposed"
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    if copy_name not in tensors:
        matrix = np.ascontiguousarray(numpy_helper.to_array(tensors[name]).T)
        model.graph.initializer.append(numpy_helper.from_array(matrix, copy_name))
    return copy_name
