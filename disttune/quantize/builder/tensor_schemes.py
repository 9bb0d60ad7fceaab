"""Which tensor of a candidate takes which scheme.

Rules:
1. An activation takes the scheme of its first reader, in graph order, that is quantized statically; where
   there is none, that of its producer. One tensor has one scheme: a reader in float gets the quantized
   tensor too.
2. A constant operand that is neither weight nor bias (of an Add, say) takes its op's activation scheme;
   one that several ops read, the first's. A bias that another op reads so is such an operand.
3. A weight that several ops of the space read in different ways (scheme, static or dynamic, float) is
   copied, one for each way; ops that are not in the space go with the first.
4. The scales of normalizations take the commonest type of the candidate's weights; powers of two where all
   activations have them.
The engine "reference" takes rules 1 and 3 from here.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from disttune.config.errors import TrialError
from disttune.config.schemes import OpConfig, Scheme
from disttune.quantize.builder.float_model import FloatModel, FloatNode
from disttune.quantize.parameters import has_power_of_two_scale
from disttune.quantize.sources import FIRST_BIAS, WEIGHT_INPUTS
from disttune.quantize.summary import channel_axis, group_axis
from disttune.quantize.topology import unused_name
from disttune.space.candidate import Candidate


@dataclass(frozen=True, slots=True)
class ConstantScheme:
    """Scheme of a constant.

    Args:
        axis: of the channels, or of the groups; None for one scale.
    """

    scheme: Scheme
    axis: int | None = None


@dataclass(frozen=True, slots=True)
class WeightCopies:
    """Rule 3.

    Args:
        inputs: nodes that read copies: names of all their inputs.
        origins: name of a copy to the weight's.
    """

    inputs: Mapping[str, tuple[str, ...]]
    origins: Mapping[str, str]

    def inputs_of(self, node: FloatNode) -> tuple[str, ...]:
        """Names of a node's inputs, with copies of weights."""
        return self.inputs.get(node.name, node.inputs)

    def origin(self, constant: str) -> str:
        """Name in the float model of a constant or a copy of it."""
        return self.origins.get(constant, constant)


@dataclass(frozen=True, slots=True)
class TensorSchemes:
    """Schemes of a candidate's tensors, by name.

    Args:
        copies: of shared weights.
        activations: those around static ops.
        constants: those around static and weight-only ops; copies by their own names.
        default: of constants that have none.
    """

    copies: WeightCopies
    activations: Mapping[str, Scheme]
    constants: Mapping[str, ConstantScheme]
    default: ConstantScheme

    @property
    def all(self) -> set[Scheme]:
        """Every scheme that a tensor takes."""
        return {*self.activations.values(), *(constant.scheme for constant in self.constants.values())}


def tensor_schemes(model: FloatModel, candidate: Candidate, configs: Mapping[str, OpConfig]) -> TensorSchemes:
    """Schemes of all tensors of a candidate.

    Args:
        configs: of its quantized ops, by node name.
    Raises:
        TrialError: a weight is to be quantized in groups that cannot be.
    """
    static = {op: c for op, c in configs.items() if c.approach == "static"}
    weights_only = {op: c for op, c in configs.items() if c.approach == "weight_only"}
    copies = copy_shared_weights(model, candidate)
    return TensorSchemes(
        copies,
        activation_schemes(model, static),
        constant_schemes(model, {**static, **weights_only}, copies),
        normalization_scheme(static),
    )


def weight_axis(node: FloatNode, scheme: Scheme, rank: int) -> int | None:
    """Axis along which a node's weight has several scales.

    Raises:
        TrialError: groups are asked for, and the op has no axis for them.
    """
    if scheme.granularity == "per_channel":
        return channel_axis(node.message, rank)
    if scheme.granularity != "per_group":
        return None
    axis = group_axis(node.message, rank)
    if axis is not None:
        return axis
    raise TrialError(f"op {node.name}: the weight of a {node.op_type} is not quantized in groups")


def copy_shared_weights(model: FloatModel, candidate: Candidate) -> WeightCopies:
    """Rule 3."""
    inputs: dict[str, list[str]] = {}
    origins: dict[str, str] = {}
    ops = frozenset(candidate.ops) if model.shared_weights else frozenset()
    for weight, readers in model.shared_weights.items():
        names: dict[tuple[object, ...], str] = {}
        for node, position in readers:
            if node.name not in ops:
                continue
            way = _way(node, candidate.config_of(node.name), model.rank(weight))
            if way not in names:
                names[way] = unused_name(weight, {*model.names, *origins}) if names else weight
                if names[way] != weight:
                    origins[names[way]] = weight
            if names[way] != weight:
                inputs.setdefault(node.name, list(node.inputs))[position] = names[way]
    return WeightCopies({name: tuple(changed) for name, changed in inputs.items()}, origins)


def activation_schemes(model: FloatModel, static: Mapping[str, OpConfig]) -> dict[str, Scheme]:
    """Rule 1: scheme of every float activation around the static ops.

    Args:
        static: configs by node name; each has an activation scheme.
    """
    nodes = [(node, static[node.name].activation) for node in model.nodes if node.name in static]
    schemes: dict[str, Scheme] = {}
    for node, scheme in nodes:
        for name in node.inputs:
            if scheme is not None and name in model.floats:
                schemes.setdefault(name, scheme)
    for node, scheme in nodes:
        for name in node.outputs:
            if scheme is not None and name in model.floats:
                schemes.setdefault(name, scheme)
    return schemes


def constant_schemes(
    model: FloatModel, configs: Mapping[str, OpConfig], copies: WeightCopies
) -> dict[str, ConstantScheme]:
    """Rule 2: scheme of every constant around the ops but biases and the scales of normalizations.

    Args:
        configs: static and weight-only configs by node name.
    """
    schemes: dict[str, ConstantScheme] = {}
    for node in model.nodes:
        config = configs.get(node.name)
        if config is None:
            continue
        inputs = copies.inputs_of(node)
        for i in node.float_constants:
            if inputs[i] in schemes:
                continue
            if i in WEIGHT_INPUTS.get(node.op_type, ()):
                scheme = config.weight or config.activation
                if scheme is not None:
                    axis = weight_axis(node, scheme, model.rank(node.inputs[i]))
                    schemes[inputs[i]] = ConstantScheme(scheme, axis)
            elif i < FIRST_BIAS.get(node.op_type, len(inputs)) and config.activation is not None:
                schemes[inputs[i]] = ConstantScheme(config.activation)
    return schemes


def normalization_scheme(static: Mapping[str, OpConfig]) -> ConstantScheme:
    """Rule 4; with no weights at all, the commonest type of the activations."""
    kinds = Counter(config.weight.dtype for config in static.values() if config.weight)
    kinds = kinds or Counter(config.activation.dtype for config in static.values() if config.activation)
    dtype = kinds.most_common(1)[0][0] if kinds else "int8"
    activations = [config.activation for config in static.values() if config.activation]
    is_power_of_two = bool(activations) and all(map(has_power_of_two_scale, activations))
    method = "pow2_nonoverflow" if is_power_of_two else "minmax"
    return ConstantScheme(Scheme(dtype, symmetric=not dtype.startswith("uint"), method=method))


def _way(node: FloatNode, config: OpConfig, rank: int) -> tuple[object, ...]:
    """Equal for two readers of a weight exactly when one copy does for both."""
    scheme = config.weight or config.activation
    if not config.quantized or scheme is None:
        return ("float",)
    return (config.approach, scheme, weight_axis(node, scheme, rank))
