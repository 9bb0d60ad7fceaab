"""The steps of autoquant that change a candidate: when each applies, and what it tries.

Pure. Each gives candidates made from the best so far; none says that the step does not apply.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from disttune.config.recipes import RecipeValue
from disttune.config.schemes import METHODS, OpConfig, Scheme
from disttune.space.candidate import Candidate
from disttune.space.changes import switched_to, with_weight_method
from disttune.space.space import Space
from disttune.space.summary import ModelSummary, OpSummary

CONVOLUTIONS = ("Conv", "ConvTranspose")
PRODUCTS = ("MatMul", "Gemm")
Variants = Callable[["Position"], Sequence[Candidate]]


@dataclass(frozen=True)
class Position:
    """Where the chain stands.

    Args:
        space: that the start has settled.
        summary: of the model.
        best: the candidate of the best row so far.
        rounding: weight methods to be tried.
    """

    space: Space
    summary: ModelSummary
    best: Candidate
    rounding: Sequence[str]

    @property
    def quantized(self) -> list[tuple[OpSummary, OpConfig]]:
        """Quantized ops with their configs, in graph order."""
        ops = {op.name: op for op in self.summary.ops}
        return [(ops[name], self.best.config_of(name)) for name in self.best.quantized_ops]


@dataclass(frozen=True)
class Step:
    """One step.

    Args:
        name: of its stage.
        variants: what it tries.
        otherwise: why it does not apply, where it tries nothing.
    """

    name: str
    variants: Variants
    otherwise: str


def schemes(position: Position) -> list[Candidate]:
    """Every threshold method and granularity of the options, for all ops alike, one change at a time."""
    space, best = position.space, position.best
    found = [_percentile(position)] if "percentile 99.99" in space.presets else []
    for part in ("activation", "weight"):
        for names in (("method", "parameter"), ("granularity", "group_size")):
            values = dict.fromkeys(
                tuple(getattr(scheme, name) for name in names)
                for op in space.ops
                for option in space.options[op]
                if (scheme := getattr(option, part)) is not None and scheme.method in METHODS
            )
            found += [_with(position, part, dict(zip(names, value, strict=True))) for value in values]
    found.append(switched_to(space, best, "dynamic"))
    return _new(best, found)


def equalized(position: Position) -> list[Candidate]:
    """Cross-layer equalization, where some weight has one scale or some convolution is depth-wise."""
    if not any(_gains_by_equalizing(op, config) for op, config in position.quantized):
        return []
    on = {"cross_layer_equalization": True}
    both = {**on, "cross_layer_equalization_absorb_bias": True}
    gated = {**on, "cross_layer_equalization_gate": True}
    return _new(position.best, [with_recipes(position.best, recipes) for recipes in (on, both, gated)])


def smoothed_ops(position: Position) -> list[str]:
    """Ops whose activations SmoothQuant could smooth."""
    return [
        op.name
        for op, config in position.quantized
        if op.op_type in PRODUCTS and op.weight is not None and config.activation is not None
    ]


def smoothed(position: Position) -> list[Candidate]:
    """SmoothQuant with the usual alpha and with one for each op."""
    alphas: tuple[RecipeValue, ...] = (0.5, "auto")
    given = [{"smooth_quant": True, **({} if a == 0.5 else {"smooth_quant_alpha": a})} for a in alphas]
    return _new(position.best, [with_recipes(position.best, recipes) for recipes in given])


def rounded(position: Position) -> list[Candidate]:
    """Each weight algorithm for all weights of convolutions and products."""
    found = [with_weight_method(position.best, position.summary, text) for text in position.rounding]
    return _new(position.best, found)


def corrected(position: Position) -> list[Candidate]:
    """Biases, and scales of weights, that take out the mean error."""
    if not any(_has_static_weight(op, config) for op, config in position.quantized):
        return []
    names = ("fast_bias_correction", "bias_correction", "weight_correction")
    return _new(position.best, [with_recipes(position.best, {name: True}) for name in names])


STEPS = {
    "scheme": Step("scheme", schemes, "the job leaves one only"),
    "equalization": Step(
        "equalization", equalized, "every weight has a scale per channel, none is depth-wise"
    ),
    "smoothing": Step("smoothing", smoothed, "no product has quantized activations with outliers"),
    "rounding": Step("rounding", rounded, "no weight that an algorithm could round"),
    "correction": Step("correction", corrected, "no weight is quantized statically"),
}


def with_recipes(candidate: Candidate, recipes: Mapping[str, RecipeValue]) -> Candidate:
    """The candidate with these recipes too."""
    return Candidate.of(candidate.configs(), {**dict(candidate.recipes), **recipes})


def _percentile(position: Position) -> Candidate:
    """The threshold method of the preset, in the best so far."""
    preset = position.space.presets["percentile 99.99"]
    changes = {}
    for op, config in position.quantized:
        other = preset.config_of(op.name).activation
        if config.approach == "static" and config.activation is not None and other is not None:
            activation = replace(config.activation, method=other.method, parameter=other.parameter)
            changes[op.name] = replace(config, activation=activation)
    return position.best.with_configs(changes)


def _with(position: Position, part: str, values: Mapping[str, object]) -> Candidate:
    """The best with these values wherever an op has an option that differs in nothing else."""
    changes = {}
    for op, config in position.quantized:
        scheme: Scheme | None = getattr(config, part)
        if scheme is not None:
            wanted = replace(config, **{part: replace(scheme, **values)})  # type: ignore[arg-type]
            if wanted in position.space.options[op.name]:
                changes[op.name] = wanted
    return position.best.with_configs(changes)


def _has_static_weight(op: OpSummary, config: OpConfig) -> bool:
    return config.approach == "static" and op.weight is not None and op.op_type in (*CONVOLUTIONS, *PRODUCTS)


def _gains_by_equalizing(op: OpSummary, config: OpConfig) -> bool:
    if op.op_type not in CONVOLUTIONS or op.weight is None or config.weight is None:
        return False
    shape = op.weight.shape
    return config.weight.granularity == "per_tensor" or (len(shape) > 2 and shape[1] == 1 < shape[0])


def _new(best: Candidate, found: Sequence[Candidate]) -> list[Candidate]:
    return [candidate for candidate in dict.fromkeys(found) if candidate != best]
