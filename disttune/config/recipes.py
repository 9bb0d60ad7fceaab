"""Recipes: transformations and options of the whole model that a job can fix or leave to the search."""

from dataclasses import dataclass

RecipeValue = bool | int | float | str


@dataclass(frozen=True, slots=True)
class Recipe:
    """One recipe.

    Args:
        name: key below `quantization.recipes`.
        values: everything it can be set to.
            Empty for names of op types: a value is a text of them with commas between, sorted.
        default: what it is when neither the user nor the strategy sets it.
        tunable: whether strategies may change it when the user leaves it open.
        summary: one sentence for the documentation.
    """

    name: str
    values: tuple[RecipeValue, ...]
    default: RecipeValue
    tunable: bool
    summary: str

    @property
    def names_op_types(self) -> bool:
        """Whether its value is a list of op types, of any length."""
        return not self.values

    def takes(self, value: object) -> bool:
        """Whether it can be set to this value (1 is not true)."""
        if self.names_op_types:
            return isinstance(value, str)
        return any(type(v) is type(value) and v == value for v in self.values)


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
)  # fmt: skip
RECIPES = {recipe.name: recipe for recipe in _ALL}
PREPARING = ("graph_optimization_level", "gemm_to_matmul")  # part of the float graph, not of a candidate


def op_types_of(value: RecipeValue) -> tuple[str, ...]:
    """The op types that a value names."""
    return tuple(str(value).split(",")) if value else ()
