"""Static quantization of some ops of a model, each with its own config, by onnxruntime's `QDQQuantizer`."""

from collections import Counter
from collections.abc import Mapping

from onnx import ModelProto
from onnxruntime.quantization import QDQQuantizer, QuantFormat
from onnxruntime.quantization.calibrate import CalibrationMethod, TensorData, TensorsData
from onnxruntime.quantization.quant_utils import update_opset_version
from onnxruntime.quantization.quantize import check_static_quant_arguments

from disttune.config.errors import TrialError
from disttune.config.recipes import RecipeValue, op_types_of
from disttune.config.schemes import OpConfig, Scheme
from disttune.quantize.preprocess import first_line
from disttune.quantize.reference.calibration import Calibration
from disttune.quantize.reference.schemes import Overrides, quant_type, tensor_overrides


def quantize_static_ops(
    model: ModelProto,
    configs: Mapping[str, OpConfig],
    schemes: Mapping[str, Scheme],
    calibration: Calibration,
    recipes: Mapping[str, RecipeValue],
) -> ModelProto:
    """Put Q and DQ nodes around some ops.

    For ops that all have the same config the result is that of `quantize_static` with it, but for the
    order of the nodes and for two of its faults: scales per channel of a MatMul's weight of three or more
    dimensions, which do not run; and a Relu or Clip that it removes also where the range of its output
    goes below zero (the "distribution" method), so that nothing clips any more.

    Args:
        model: float model with shapes, used up.
        configs: static configs by node name, not empty.
        schemes: of activations.
        calibration: ranges of the model's activations.
        recipes: `add_qdq_pair_to_weight`, `dedicated_qdq_pair`, `optypes_to_exclude_output_quant` and
            `quantize_bias`.
    Raises:
        TrialError: the quantizer cannot do it.
    """
    for op, config in configs.items():
        _check(op, config)
    ranges = calibration.ranges(schemes)
    overrides = tensor_overrides(model, configs, {name: schemes[name] for name in ranges})
    try:
        return _quantized(model, configs, ranges, overrides, schemes, recipes)
    except Exception as error:
        cause = f"{type(error).__name__}: {first_line(error)}"
        raise TrialError(
            f"static quantization of {_named(configs)} failed in onnxruntime: {cause}"
        ) from error


def _quantized(
    model: ModelProto,
    configs: Mapping[str, OpConfig],
    ranges: dict[str, TensorData],
    overrides: Overrides,
    schemes: Mapping[str, Scheme],
    recipes: Mapping[str, RecipeValue],
) -> ModelProto:
    types = {node.op_type for node in model.graph.node if node.name in configs}
    weight_type, activation_type = _commonest_types(configs)
    symmetric = any(scheme.symmetric for scheme in schemes.values())
    float_outputs = op_types_of(recipes.get("optypes_to_exclude_output_quant", ""))
    keeps_zero = all(scheme.method != "distribution" for scheme in schemes.values())
    quantizer = _PerOpQuantizer(
        _with_opset_for(model, overrides),
        per_channel=False,  # the overrides name the axis of every weight that is
        reduce_range=False,
        weight_qType=weight_type,
        activation_qType=activation_type,
        tensors_range=TensorsData(CalibrationMethod.MinMax, ranges),  # type of the container only
        nodes_to_quantize=list(configs),
        nodes_to_exclude=[],
        op_types_to_quantize=sorted(types),
        extra_options={
            "TensorQuantOverrides": overrides,
            "AddQDQPairToWeight": recipes.get("add_qdq_pair_to_weight") is True,
            "OpTypesToExcludeOutputQuantization": float_outputs,
            "QuantizeBias": recipes.get("quantize_bias") is not False,
            "DedicatedQDQPair": recipes.get("dedicated_qdq_pair") is True,
            # The quantizer removes a Relu that the clipping at its output's lowest code replaces. It looks
            # at the default only, so the default has to be one that holds for all tensors.
            "ActivationSymmetric": symmetric,
            # With an output that stays in float it would remove one that nothing replaces.
            "QDQKeepRemovableActivations": symmetric
            or not keeps_zero
            or not {"Relu", "Clip"}.isdisjoint(float_outputs),
        },
    )
    quantized: ModelProto = quantizer.quantize_model()
    return quantized


class _PerOpQuantizer(QDQQuantizer):  # type: ignore[misc]
    """`QDQQuantizer` that can do a Gather with one scale per row."""

    def quantize_output_same_as_input(self, output_name: str, input_name: str, node_name: str) -> None:
        if self.tensor_quant_overrides.has_per_channel_overrides(input_name):
            self.quantize_activation_tensor(output_name)  # a vector of scales cannot be shared
        else:
            super().quantize_output_same_as_input(output_name, input_name, node_name)


def _check(op: str, config: OpConfig) -> None:
    if config.activation is None:
        raise TrialError(f"op {op}: static quantization needs a scheme for the activations")
    if config.activation.granularity != "per_tensor":
        raise TrialError(
            f"op {op}: activations are quantized per tensor, not {config.activation.granularity}"
        )
    activation_type = quant_type(op, config.activation)
    weight_type = quant_type(op, config.weight) if config.weight else activation_type
    try:
        check_static_quant_arguments(QuantFormat.QDQ, activation_type, weight_type)
    except ValueError:
        pair = (
            f"{config.activation.dtype} activations with {(config.weight or config.activation).dtype} weights"
        )
        raise TrialError(f"op {op}: onnxruntime's quantizer does not do {pair}") from None


def _commonest_types(configs: Mapping[str, OpConfig]) -> tuple[object, object]:
    """Default types: used for what has no override, that is the scales of normalizations and the biases."""
    weights = Counter(quant_type(op, c.weight) for op, c in configs.items() if c.weight)
    activations = Counter(quant_type(op, c.activation) for op, c in configs.items() if c.activation)
    activation_type = activations.most_common(1)[0][0]
    return (weights.most_common(1)[0][0] if weights else activation_type), activation_type


def _with_opset_for(model: ModelProto, overrides: Overrides) -> ModelProto:
    """Opset 21 where 16-bit types need it; where that fails, the quantizer takes com.microsoft's Q and DQ."""
    types = {override["quant_type"] for (override,) in overrides.values()}
    raised = model
    for kind in sorted(types, key=str):
        try:
            raised = update_opset_version(raised, kind, kind)
        except Exception:  # whatever onnx's version converter raises
            return model
    return raised


def _named(configs: Mapping[str, OpConfig]) -> str:
    first, *others = configs
    return f"op {first}" + (f" and {len(others)} others" if others else "")
