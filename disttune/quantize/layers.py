"""Layers of a candidate whose codes an algorithm has to find: weights, their schemes and readers.

A layer is a constant weight with one scheme; ops that read the same constant in the same way are one layer,
fitted to the inputs of all of them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from disttune.config.errors import TrialError
from disttune.config.schemes import OpConfig
from disttune.config.weight_methods import WEIGHT_METHODS
from disttune.quantize.algorithms.layout import LINEAR_TYPES
from disttune.quantize.builder.float_model import FloatModel, FloatNode
from disttune.quantize.builder.rounded_matrix import is_rounded_here
from disttune.quantize.builder.tensor_schemes import ConstantScheme, TensorSchemes
from disttune.quantize.sources import WEIGHT_INPUTS


@dataclass(frozen=True, slots=True)
class Layer:
    """One weight to be quantized by an algorithm.

    Args:
        weight: name of the constant in the float model.
        scheme: of the weight; its method is a key of `WEIGHT_METHODS`.
        readers: names of the ops that read it so, in graph order.
        source: the tensor that all readers multiply it with; "" where they differ.
    """

    weight: str
    scheme: ConstantScheme
    readers: tuple[str, ...]
    source: str

    @property
    def method(self) -> str:
        return self.scheme.scheme.method

    @property
    def uses_data(self) -> bool:
        return WEIGHT_METHODS[self.method].uses_data


def has_layers(configs: Iterable[OpConfig]) -> bool:
    """Whether any of these configs asks for a weight algorithm."""
    return any(c.weight is not None and c.weight.method in WEIGHT_METHODS for c in configs)


def layers_of(model: FloatModel, configs: Mapping[str, OpConfig], schemes: TensorSchemes) -> list[Layer]:
    """The layers of a candidate, in graph order.

    Args:
        configs: of its quantized ops, by node name.
        schemes: of its tensors.
    Raises:
        TrialError: an op has no form that an algorithm can fit.
    """
    readers: dict[tuple[str, ConstantScheme], list[FloatNode]] = {}
    for node in model.nodes:
        config = configs.get(node.name)
        if config is None or config.weight is None or config.weight.method not in WEIGHT_METHODS:
            continue
        inputs = schemes.copies.inputs_of(node)
        for i in WEIGHT_INPUTS.get(node.op_type, ()):
            if i in node.float_constants:
                if config.approach != "dynamic" and is_rounded_here(
                    config.weight, model.rank(node.inputs[i])
                ):
                    continue
                _check(node, config)
                key = schemes.copies.origin(inputs[i]), schemes.constants[inputs[i]]
                readers.setdefault(key, []).append(node)
    return [_layer(weight, scheme, nodes) for (weight, scheme), nodes in readers.items()]


def _check(node: FloatNode, config: OpConfig) -> None:
    assert config.weight is not None
    if node.op_type not in LINEAR_TYPES or config.approach == "dynamic":
        types = ", ".join(sorted(LINEAR_TYPES))
        raise TrialError(
            f"op {node.name}: method {config.weight.method} is for the weights of {types} that are quantized "
            f"statically or alone, not for those of a {config.approach} {node.op_type}"
        )


def _layer(weight: str, scheme: ConstantScheme, nodes: Sequence[FloatNode]) -> Layer:
    sources = {node.inputs[0] for node in nodes}
    return Layer(
        weight,
        scheme,
        tuple(node.name for node in nodes),
        sources.pop() if len(sources) == 1 else "",
    )
