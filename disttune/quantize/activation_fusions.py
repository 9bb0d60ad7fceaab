"""FusedConv and FusedGemm of onnxruntime as what they were made of: Conv or Gemm, a sum, an activation.

The optimizer fuses them on level "extended" for speed in float; no target quantizes them. Once quantized,
the parts are fused anew as far as the provider can.

Source: INC 2.6, ONNX Runtime adaptor, which takes FusedConv apart.
"""

import numpy as np
from onnx import ModelProto, NodeProto, helper

from disttune.quantize.editing import GraphEditor, attribute

PARTS = {"FusedConv": "Conv", "FusedGemm": "Gemm"}
WITHOUT_PARAMETERS = ("Relu", "Sigmoid", "Tanh")
OWN_ATTRIBUTES = (
    "activation",
    "activation_params",
    "activation_alpha",
    "activation_beta",
    "activation_gamma",
)


def take_apart(model: ModelProto) -> ModelProto:
    """The model without them; itself where there is none."""
    if not any(node.op_type in PARTS for node in model.graph.node):
        return model
    editor = GraphEditor(model)
    for node in list(editor.nodes):
        if node.op_type in PARTS:
            _take_apart(editor, node)
    return editor.finish()


def _take_apart(editor: GraphEditor, fused: NodeProto) -> None:
    activation = attribute(fused, "activation", "")
    parameters = _parameters(fused)
    known = activation in WITHOUT_PARAMETERS or (activation, len(parameters)) in (
        ("", 0), ("LeakyRelu", 1), ("Clip", 2), ("HardSigmoid", 2),
    )  # fmt: skip
    if not known:
        return
    output, name, inputs = fused.output[0], fused.name, list(fused.input)
    op_type = PARTS[fused.op_type]
    attributes = {
        a.name: helper.get_attribute_value(a) for a in fused.attribute if a.name not in OWN_ATTRIBUTES
    }
    editor.remove(fused)
    steps = [(op_type, inputs[:3], attributes)]
    if op_type == "Conv" and len(inputs) > 3:
        steps.append(("Add", [inputs[3]], {}))
    if activation:
        steps.append(_activation(editor, activation, parameters))
    tensor = ""
    for number, (step, others, values) in enumerate(steps):
        is_last = number == len(steps) - 1
        target = output if is_last else editor.new_name(f"{output}_before_{steps[number + 1][0].lower()}")
        reads = others if number == 0 else [tensor, *others]
        editor.add(step, reads, target, name if number == 0 else f"{name}_{step.lower()}", values)
        tensor = target


def _parameters(fused: NodeProto) -> list[float]:
    listed = attribute(fused, "activation_params", None)
    if listed is not None:
        return list(listed)
    single = (attribute(fused, f"activation_{part}", None) for part in ("alpha", "beta"))
    return [value for value in single if value is not None]


def _activation(
    editor: GraphEditor, activation: str, parameters: list[float]
) -> tuple[str, list[str], dict[str, float]]:
    """Operator, inputs behind the first, attributes."""
    if activation == "Clip":
        bounds = [editor.add_constant(f"clip_{n}", np.array(n, np.float32)) for n in parameters]
        return activation, bounds, {}
    names = {"LeakyRelu": ("alpha",), "HardSigmoid": ("alpha", "beta")}.get(activation, ())
    return activation, [], dict(zip(names, parameters, strict=True)) if names else {}
