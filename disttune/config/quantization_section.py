"""The `[quantization]` section: approach, engine, options of op types and ops, recipes."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationInfo, WithJsonSchema, field_validator

from disttune.config.errors import InputError
from disttune.config.field_types import OneOf, OneOrMore, Section, Text, mistake, mistakes
from disttune.config.nearest import unknown_name
from disttune.config.recipes import RECIPES, RecipeValue
from disttune.config.schemes import (
    FLOAT_DTYPES,
    GRANULARITIES,
    METHODS,
    QUANTIZED_DTYPES,
    parse_scheme_method,
)
from disttune.config.toml_text import shown, toml_value
from disttune.config.weight_methods import WEIGHT_METHODS

DtypeName = Annotated[str, OneOf("dtype", QUANTIZED_DTYPES + FLOAT_DTYPES)]
GranularityName = Annotated[str, OneOf("granularity", GRANULARITIES)]
FloatName = Annotated[str, OneOf("float type", FLOAT_DTYPES)]


def _check_method(text: str) -> str:
    try:
        parse_scheme_method(text)
    except InputError as error:
        raise mistake(str(error)) from None
    return text


MethodName = Annotated[str, AfterValidator(_check_method)]


class SchemeOptions(Section):
    """Ways to quantize one tensor; a key left out takes what the target offers."""

    dtype: OneOrMore[DtypeName] | None = Field(
        default=None,
        description="Type of the codes; float32, float16 and bfloat16 alone leave the op in that float type.",
    )
    symmetric: OneOrMore[bool] | None = Field(default=None, description="Whether the zero point is fixed.")
    granularity: OneOrMore[GranularityName] | None = Field(
        default=None,
        description="One scale for the tensor, for each channel, or for each group of a channel.",
    )
    group_size: OneOrMore[Annotated[int, Field(ge=1)]] | None = Field(
        default=None, description='Elements of a group, with granularity "per_group".'
    )
    method: OneOrMore[MethodName] | None = Field(
        default=None,
        description=f"How the range is found: {', '.join(METHODS)}; a parameter after a colon, "
        '"percentile:99.99". Of weights also, with options, "gptq:act_order=true,flip=true": '
        + " ".join(f"{method.name}: {method.summary}" for method in WEIGHT_METHODS.values()),
    )

    @field_validator("group_size")
    @classmethod
    def _fits_granularity(cls, sizes: tuple[int, ...] | None, info: ValidationInfo) -> tuple[int, ...] | None:
        if "granularity" not in info.data:
            return sizes
        grouped = "per_group" in (info.data["granularity"] or ())
        if grouped and sizes is None:
            raise mistake('is missing: granularity "per_group" needs it, for example group_size = 32')
        if sizes is not None and not grouped:
            raise mistake('needs granularity = "per_group"')
        return sizes


class OpOptions(Section):
    """Ways to compute an op; a key left out takes what the target offers."""

    weight: SchemeOptions | None = Field(default=None, description="Options of the constant weight.")
    activation: SchemeOptions | None = Field(default=None, description="Options of the activations.")
    approach: OneOrMore[Literal["static", "dynamic", "weight_only"]] | None = Field(
        default=None, description='How the op may be quantized; narrows quantization.approach, e.g. "auto".'
    )
    fallback: FloatName | None = Field(
        default=None,
        description="Float type that strategies put the op back to first, before float32; float32 alone "
        "where nothing is given.",
    )


def _recipes_schema() -> dict[str, Any]:
    properties = {}
    for recipe in RECIPES.values():
        value: dict[str, Any] = {"enum": list(recipe.values)}
        if recipe.span is not None:
            number = {"type": "number", "minimum": recipe.span[0], "maximum": recipe.span[1]}
            value = {"anyOf": [number, value]}
        listed = {"type": "array", "items": value, "minItems": 1}
        schema: dict[str, Any] = {"anyOf": [value, listed], "default": recipe.default}
        if recipe.names_op_types:
            schema = {"type": "array", "items": {"type": "string"}, "default": []}
        properties[recipe.name] = schema | {"description": recipe.summary}
    return {"type": "object", "properties": properties, "additionalProperties": False}


class QuantizationSection(Section):
    """How the model may be quantized."""

    approach: Literal["static", "dynamic", "auto", "weight_only"] = Field(
        default="static", description="static (calibrated), dynamic, auto (both), or weight_only."
    )
    engine: Text = Field(
        default="fast",
        description="What builds the quantized models: fast (statistics once for all trials), or reference "
        "(onnxruntime's own quantizer, slow).",
    )
    placement: Literal["speed", "all"] | None = Field(
        default=None,
        description="speed: quantize what the provider runs fast; all: every op the space allows. "
        "Left out: by target and engine.",
    )
    format: Literal["qdq", "qoperator"] = Field(
        default="qdq",
        description="How quantized ops are written in the graph. Dynamic ops are integer operators "
        '(MatMulInteger and others) in any case; "qoperator" for static ones is not built.',
    )
    weight_only_format: Literal["matmulnbits", "qdq"] | None = Field(
        default=None,
        description="What a MatMul or Gemm becomes whose weight alone is quantized: one node MatMulNBits of "
        "onnxruntime, or DequantizeLinear in front of the op. Left out: by target.",
    )
    accuracy_level: int = Field(
        default=0,
        ge=0,
        le=4,
        description="Of MatMulNBits: 0 unset, 1 float32, 2 float16, 3 bfloat16, 4 int8.",
    )
    reduce_range: bool | None = Field(
        default=None,
        description="Whether int8 weights of ops on 8-bit codes take 7 bits. Left out: where a CPU of the "
        "job has no VNNI, so that sums of products would saturate.",
    )
    op_types: Mapping[Text, OpOptions] = Field(
        default_factory=dict, description="Options by ONNX operator type, e.g. [quantization.op_types.Conv]."
    )
    op_names: Mapping[Text, OpOptions] = Field(
        default_factory=dict,
        description="Options by regular expression on the whole node name; they go before those of op types.",
    )
    exclude_tensors: OneOrMore[Text] | None = Field(
        default=None,
        description="Tensors that stay in float, by name or by regular expression on the whole name.",
    )
    recipes: Annotated[Mapping[str, tuple[RecipeValue, ...]], WithJsonSchema(_recipes_schema())] = Field(
        default_factory=dict, description="Options of the whole model: one value fixes it, a list is tried."
    )

    @property
    def fixed_recipes(self) -> dict[str, RecipeValue]:
        """Recipes that have one value."""
        return {name: values[0] for name, values in self.recipes.items() if len(values) == 1}

    @field_validator("format")
    @classmethod
    def _can_be_built(cls, value: str, info: ValidationInfo) -> str:
        approach = info.data.get("approach")
        if value == "qoperator" and approach != "dynamic":
            raise mistake(
                f'"qoperator" is for approach "dynamic"; the approach is "{approach}". Leave it out: '
                "onnxruntime computes static QDQ models with the same integer kernels"
            )
        return value

    @field_validator("op_names")
    @classmethod
    def _are_expressions(cls, options: Mapping[str, OpOptions]) -> Mapping[str, OpOptions]:
        bad = []
        for pattern, value in options.items():
            try:
                re.compile(pattern)
            except (re.error, OverflowError, RecursionError) as error:
                bad.append((pattern, value, f"the name is not a regular expression: {error}"))
        if bad:
            raise mistakes(bad)
        return options

    @field_validator("recipes", mode="before")
    @classmethod
    def _are_known(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        values = {k: _recipe_values(k, v) for k, v in given.items()}
        bad = [(name, given[name], text) for name, v in values.items() if (text := _recipe_mistake(name, v))]
        if bad:
            raise mistakes(bad)
        return {name: tuple(map(RECIPES[name].as_held, v)) for name, v in values.items()}


def _recipe_values(name: str, given: Any) -> tuple[Any, ...]:
    """What a recipe can be set to; a list of op types is one value."""
    values = tuple(given) if isinstance(given, list | tuple) else (given,)
    recipe = RECIPES.get(name)
    if recipe is None or not recipe.names_op_types or not all(isinstance(v, str) for v in values):
        return values
    names = {op_type.strip() for value in values for op_type in value.split(",")}
    return (",".join(sorted(names - {""})),)


def _recipe_mistake(name: str, values: tuple[Any, ...]) -> str | None:
    recipe = RECIPES.get(name)
    if recipe is None:
        return unknown_name("recipe", name, RECIPES)
    if recipe.names_op_types:
        is_text = len(values) == 1 and recipe.takes(values[0])
        return (
            None if is_text else f'must be a list of op types such as ["MatMul"]; {shown(values)} was given'
        )
    numbers = [] if recipe.span is None else [f"a number from {recipe.span[0]:g} to {recipe.span[1]:g}"]
    listing = ", ".join([*numbers, *map(toml_value, recipe.values)])
    wrong = [v for v in values if not recipe.takes(v)]
    if wrong or not values:
        return f"must be one of {listing}, or a list of them; {shown(wrong[0] if wrong else [])} was given"
    if len(values) > 1 and not recipe.tunable:
        return f"takes one value ({listing}): it is no part of the search"
    return None
