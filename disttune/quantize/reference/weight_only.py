"""Weights alone on integers: a DequantizeLinear for each weight; activations and computing stay in float.

Stock onnxruntime may compute such a MatMul on integers all the same (it fuses the pair into MatMulNBits);
the metric of a trial is that of such a session, and so is the exported model's.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnxruntime.quantization.quant_utils import quantize_data

from disttune.config.errors import TrialError
from disttune.config.schemes import OpConfig, Scheme
from disttune.quantize.reference.schemes import quant_type
from disttune.quantize.sources import WEIGHT_INPUTS
from disttune.quantize.summary import channel_axis
from disttune.quantize.topology import read_names, sort_nodes, unused_name

DTYPES = ("int8", "uint8")


def quantize_weights(model: ModelProto, configs: Mapping[str, OpConfig]) -> ModelProto:
    """Quantize the weights of some ops, with onnxruntime's scales and codes.

    Args:
        model: float model, changed in place; no weight is shared by ops with different configs.
        configs: weight-only configs by node name, not empty.
    Raises:
        TrialError: a weight cannot be quantized like that.
    """
    graph = model.graph
    floats = {t.name: t for t in graph.initializer if t.data_type == TensorProto.FLOAT}
    taken = {name for node in graph.node for name in (*node.input, *node.output)} | floats.keys()
    done: dict[str, str] = {}  # weight to what stands for it
    for node in list(graph.node):
        config = configs.get(node.name)
        if config is None:
            continue
        if config.weight is None:
            raise TrialError(f"op {node.name}: there is no weight to quantize")
        for i in WEIGHT_INPUTS.get(node.op_type, ()):
            name = node.input[i] if i < len(node.input) else ""
            if name in floats and name not in done:
                axis = channel_axis(node, len(floats[name].dims))
                _check(node, config.weight)
                done[name] = _dequantized(model, floats[name], config.weight, axis, node.name, taken)
            if name in done:
                node.input[i] = done[name]
    used = {name for node in graph.node for name in read_names(node)}
    kept = [t for t in graph.initializer if t.name not in done or t.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    sort_nodes(graph)
    return model


def _check(node: NodeProto, scheme: Scheme) -> None:
    if scheme.dtype not in DTYPES:
        raise TrialError(
            f'op {node.name}: engine "reference" quantizes weights alone to {" or ".join(DTYPES)}, '
            f"not {scheme.dtype}"
        )


def _dequantized(
    model: ModelProto, weight: TensorProto, scheme: Scheme, axis: int | None, op: str, taken: set[str]
) -> str:
    """Add codes, scale and zero point of a weight with their DequantizeLinear; returns its output."""
    kind = quant_type(op, scheme).tensor_type
    array: NDArray[np.float32] = numpy_helper.to_array(weight)
    per_channel = scheme.granularity == "per_channel" and axis is not None
    slices = np.moveaxis(array, axis or 0, 0) if per_channel else array[np.newaxis]
    zeros, scales, codes = [], [], []
    for part in slices:
        zero, scale, values = quantize_data(part, kind, scheme.symmetric)[:3]
        zeros.append(zero)
        scales.append(scale)
        codes.append(np.asarray(values).reshape(part.shape))
    stacked = np.moveaxis(np.stack(codes), 0, axis or 0) if per_channel else codes[0]
    shape = (len(scales),) if per_channel else ()
    parts = {
        "quantized": stacked,
        "scale": np.asarray(scales, np.float32).reshape(shape),
        "zero_point": np.asarray(zeros, stacked.dtype).reshape(shape),
    }
    names = {}
    for suffix, values in parts.items():
        names[suffix] = unused_name(f"{weight.name}_{suffix}", taken)
        taken.add(names[suffix])
        model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(values), names[suffix]))
    output = unused_name(f"{weight.name}_dequantized", taken)
    taken.add(output)
    node = helper.make_node("DequantizeLinear", list(names.values()), [output], name=output)
    if per_channel:
        node.attribute.append(helper.make_attribute("axis", axis))
    model.graph.node.append(node)
    return output
