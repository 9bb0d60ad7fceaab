"""Recipes: transformations and options of the whole model that a job can fix or leave to the search."""

from dataclasses import dataclass

RecipeValue = bool | int | float | str


@dataclass(frozen=True, slots=True)
class Recipe:
    """One recipe.

    Args:
        name: key below `quantization.recipes`.
        values: everything it can be set to, besides numbers of the span. Empty for names of op types: a
            value is a text of them with commas between, sorted.
        default: what it is when neither the user nor the strategy sets it.
        tunable: whether strategies may change it when the user leaves it open.
        summary: one sentence for the documentation.
        span: least and greatest number that it can also be set to.
        needs: recipe without which it means nothing.
    """

    name: str
    values: tuple[RecipeValue, ...]
    default: RecipeValue
    tunable: bool
    summary: str
    span: tuple[float, float] | None = None
    needs: str = ""

    @property
    def names_op_types(self) -> bool:
        """Whether its value is a list of op types, of any length."""
        return not self.values

    def takes(self, value: object) -> bool:
        """Whether it can be set to this value (1 is not true)."""
        if self.names_op_types:
            return isinstance(value, str)
        if self.span is not None and type(value) in (int, float):
            return self.span[0] <= value <= self.span[1]  # type: ignore[operator]
        return any(type(v) is type(value) and v == value for v in self.values)

    def as_held(self, value: RecipeValue) -> RecipeValue:
        """A value that it takes, in the one form that is compared: 1 of a span is 1.0."""
        return float(value) if self.span is not None and type(value) is int else value


_ALL = (
    Recipe(
        "first_conv_or_matmul_quantization", (True, False), True, True,
        "Whether the first Conv or MatMul of the graph is quantized.",
    ),
    Recipe(
        "last_conv_or_matmul_quantization", (True, False), True, True,
        "Whether the last Conv or MatMul of the graph is quantized.",
    ),
    Recipe(
        "pre_post_process_quantization", (True, False), True, True,
        "Whether ops before the first and after the last Conv or MatMul are quantized.",
    ),
    Recipe(
        "add_qdq_pair_to_weight", (False, True), False, False,
        "Whether weights stay in float with a QuantizeLinear and DequantizeLinear pair behind them.",
    ),
    Recipe(
        "dedicated_qdq_pair", (False, True), False, False,
        "Whether each consumer of a tensor gets a QuantizeLinear and DequantizeLinear pair of its own.",
    ),
    Recipe(
        "quantize_bias", (True, False), True, False,
        "Whether biases beside quantized data and weights become int32; some targets take float ones only.",
    ),
    Recipe(
        "optypes_to_exclude_output_quant", (), "", False,
        "Op types whose outputs stay in float, unless the op that reads them quantizes its input.",
    ),
    Recipe(
        "graph_optimization_level", ("DISABLE_ALL", "ENABLE_BASIC", "ENABLE_EXTENDED"), "ENABLE_BASIC", False,
        "How far onnxruntime optimizes the float graph before it is quantized.",
    ),
    Recipe(
        "gemm_to_matmul", (False, True), False, False,
        "Whether a Gemm with a constant weight becomes MatMul and Add before it is quantized.",
    ),
    Recipe(
        "cross_layer_equalization", (False, True), False, False,
        "Whether channels of neighbouring layers get weights of equal size before quantizing.",
    ),
    Recipe(
        "cross_layer_equalization_absorb_bias", (False, True), False, False,
        "Whether equalizing also moves what activations have in common into the next layer's bias.",
        needs="cross_layer_equalization",
    ),
    Recipe(
        "cross_layer_equalization_gate", (False, True), False, False,
        "Whether layers are equalized only where rounding is predicted to cost their outputs less by it.",
        needs="cross_layer_equalization",
    ),
    Recipe(
        "smooth_quant", (False, True), False, False,
        "Whether outliers of activations are moved into the weights that read them (SmoothQuant).",
    ),
    Recipe(
        "smooth_quant_alpha", ("auto",), 0.5, True,
        "How much of an outlier is moved: 0 none, 1 all, auto: chosen for each layer.",
        span=(0.0, 1.0), needs="smooth_quant",
    ),
    Recipe(
        "smooth_quant_scales_per_op", (False, True), False, False,
        "Whether every op that reads a tensor gets factors of its own, and a Mul before it.",
        needs="smooth_quant",
    ),
    Recipe(
        "smooth_quant_conv", (False, True), False, False,
        "Whether the inputs of Conv are smoothed too.",
        needs="smooth_quant",
    ),
    Recipe(
        "weight_correction", (False, True), False, False,
        "Whether scales of quantized weights are fitted to the outputs of the float weights.",
    ),
    Recipe(
        "fast_bias_correction", (False, True), False, False,
        "Whether biases take out the mean error of quantized weights, from the mean inputs of layers.",
    ),
    Recipe(
        "bias_correction", (False, True), False, False,
        "Whether biases take out the mean error of outputs, by running each quantized model level by level.",
    ),
)  # fmt: skip
# Of a candidate whose weights take one bit less; a job says `quantization.reduce_range`.
REDUCE_RANGE = "reduce_range"
RECIPES = {recipe.name: recipe for recipe in _ALL}
PREPARING = ("graph_optimization_level", "gemm_to_matmul")  # part of the float graph, not of a candidate


def op_types_of(value: RecipeValue) -> tuple[str, ...]:
    """The op types that a value names."""
    return tuple(str(value).split(",")) if value else ()
