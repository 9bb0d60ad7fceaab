import pytest

from disttune.config.errors import InputError
from disttune.config.quantization_section import QuantizationSection
from disttune.config.schemes import OpConfig
from disttune.space.build import build_space
from disttune.space.capability import load_capability
from disttune.space.space import Space
from disttune.space.summary import ModelSummary
from tests.builders import chain, model, op

METHODS = frozenset({"minmax", "percentile", "entropy"})


def space(summary: ModelSummary, **quantization: object) -> Space:
    return build_space(summary, load_capability("ort-cpu"), QuantizationSection(**quantization), METHODS)


def weights(options: tuple[OpConfig, ...]) -> list[str]:
    return list(dict.fromkeys(o.weight.granularity for o in options if o.weight))


def methods(options: tuple[OpConfig, ...]) -> list[tuple[str, float | None]]:
    return list(dict.fromkeys((o.activation.method, o.activation.parameter) for o in options if o.activation))


PER_TENSOR = {"weight": {"granularity": ["per_tensor"]}}
PER_CHANNEL = {"weight": {"granularity": ["per_channel"]}}


def test_a_list_keeps_what_it_names_in_its_own_order():
    s = space(chain("Conv"), op_types={"Conv": {"weight": {"granularity": ["per_tensor", "per_channel"]}}})
    first, second = s.options["Conv_0"][:2]
    assert (first.weight.granularity, second.weight.granularity) == ("per_tensor", "per_channel")
    assert first.activation == second.activation
    assert s.size == space(chain("Conv")).size
    assert s.warnings == ()


def test_only_ops_of_a_matching_type_are_touched():
    s = space(chain("Conv", "MatMul"), op_types={"Con.": PER_TENSOR})
    assert weights(s.options["Conv_0"]) == ["per_tensor"]
    assert weights(s.options["MatMul_1"]) == ["per_channel", "per_tensor"]


@pytest.mark.parametrize("key", ["Con", "onv", "conv"])
def test_a_key_must_match_the_whole_op_type(key: str):
    with pytest.raises(
        InputError, match=rf'\[quantization\] op_types\.{key}: no op type "{key}"\. Nearest: "Conv"'
    ):
        space(chain("Conv", "Relu"), op_types={key: PER_TENSOR})


def test_a_name_goes_before_a_type_key_by_key():
    by_type = {"weight": {"granularity": "per_tensor"}, "activation": {"method": "entropy"}}
    s = space(chain("Conv", "Conv"), op_types={"Conv": by_type}, op_names={"Conv_1": PER_CHANNEL})
    assert weights(s.options["Conv_0"]) == ["per_tensor"]
    assert weights(s.options["Conv_1"]) == ["per_channel"]
    assert methods(s.options["Conv_1"]) == [("entropy", None)]
    assert s.warnings == ()


def test_of_two_keys_of_one_kind_the_later_holds():
    s = space(chain("Conv"), op_types={"Conv": PER_TENSOR, "C.*": PER_CHANNEL})
    assert weights(s.options["Conv_0"]) == ["per_channel"]


def test_a_fused_op_answers_to_the_names_of_all_its_sources():
    fused = model(op("Conv", "conv1", sources=("conv1", "bn1")), op("Conv", "conv2"))
    s = space(fused, op_names={"bn1": PER_TENSOR})
    assert weights(s.options["conv1"]) == ["per_tensor"]
    assert weights(s.options["conv2"]) == ["per_channel", "per_tensor"]


def test_an_exact_name_matches_whatever_it_means_as_a_regex():
    name = "/layer1/conv[0]+"
    assert weights(space(model(op("Conv", name)), op_names={name: PER_TENSOR}).options[name]) == [
        "per_tensor"
    ]


def test_a_key_that_is_no_regex_is_told():
    with pytest.raises(InputError, match=r'op_types\."Conv\(": not a regular expression: missing \)'):
        space(chain("Conv"), op_types={"Conv(": PER_TENSOR})


def test_a_name_that_matches_no_op_is_told_with_the_nearest():
    told = r'op_names\."layer1\.cnov": no op name "layer1.cnov".*none of the 2 names.*Nearest: "layer1.conv"'
    with pytest.raises(InputError, match=told):
        space(model(op("Conv", "layer1.conv"), op("Conv", "zzz")), op_names={"layer1.cnov": PER_TENSOR})


def test_every_value_that_the_target_lacks_is_told_in_one_warning():
    s = space(
        chain("Conv", "MatMul"),
        op_types={"Conv": {"activation": {"dtype": ["int8", "uint8"]}}},
        op_names={"MatMul_.*": {"weight": {"dtype": "int16"}}},
    )
    assert s.warnings == (
        '[quantization] left out, because target "ort-cpu" with approach "static", placement "speed" and '
        'this engine lacks it: op_types.Conv activation.dtype "int8"; op_names."MatMul_.*" '
        'weight.dtype "int16" ("int8" stays).',
    )
    assert s.options == space(chain("Conv", "MatMul")).options


def test_a_value_that_only_some_matching_types_lack_is_told_with_these_types():
    everything = {".*": {"activation": {"method": "percentile"}}}
    s = space(chain("Conv", "Relu", "Add"), placement="all", op_types=everything)
    assert methods(s.options["Conv_0"]) == [("percentile", 99.999)]
    assert methods(s.options["Relu_1"]) == [("minmax", None)]
    assert 'op_types.".*" activation.method "percentile" for Relu, Add ("minmax" stays)' in s.warnings[0]


def test_options_for_an_op_type_that_is_not_quantized_are_told():
    s = space(chain("Conv", "Relu"), op_types={"Relu": {"activation": {"method": "minmax"}}})
    assert 'op_types.Relu activation.method "minmax".' in s.warnings[0]


def test_a_weight_option_for_ops_without_a_weight_is_told():
    s = space(chain("Conv", "Relu"), placement="all", op_types={"Relu": PER_TENSOR})
    assert 'op_types.Relu weight.granularity "per_tensor".' in s.warnings[0]


def test_a_weight_option_for_a_product_of_two_activations_is_told_and_takes_nothing_away():
    s = space(
        model(op("MatMul", channels=0)), approach="auto", op_types={"MatMul": {"weight": {"dtype": "uint8"}}}
    )
    assert s.size == 3
    assert 'op_types.MatMul weight.dtype "uint8".' in s.warnings[0]


def test_the_parameter_of_a_method_is_the_users():
    wanted = {"Conv": {"activation": {"method": ["percentile:99.9", "percentile:99", "minmax"]}}}
    s = space(chain("Conv"), op_types=wanted)
    assert methods(s.options["Conv_0"]) == [("percentile", 99.9), ("percentile", 99.0), ("minmax", None)]
    assert s.warnings == ()


def test_a_method_that_the_engine_lacks_is_told_only_when_it_was_asked_for():
    assert ("mse", None) not in methods(space(chain("Conv")).options["Conv_0"])
    assert space(chain("Conv")).warnings == ()
    asked = space(chain("Conv"), op_types={"Conv": {"activation": {"method": ["mse", "minmax"]}}})
    assert methods(asked.options["Conv_0"]) == [("minmax", None)]
    assert 'op_types.Conv activation.method "mse".' in asked.warnings[0]


def test_a_dtype_of_a_later_row_is_found_there_and_takes_that_rows_methods():
    wide = {"Conv": {"activation": {"dtype": "uint16", "method": ["percentile", "entropy"]}}}
    s = space(chain("Conv"), placement="all", op_types=wide)
    assert {o.activation.dtype for o in s.options["Conv_0"]} == {"uint16"}
    assert methods(s.options["Conv_0"]) == [("minmax", None)]
    assert '"percentile" ("minmax" stays)' in s.warnings[0]


def test_a_list_of_dtypes_orders_the_rows():
    wide_first = {"Conv": {"activation": {"dtype": ["uint16", "uint8"]}}}
    s = space(chain("Conv"), placement="all", op_types=wide_first)
    assert [o.activation.dtype for o in s.options["Conv_0"]] == ["uint16"] * 2 + ["uint8"] * 6


@pytest.mark.parametrize("tensor", ["weight", "activation"])
def test_a_dtype_list_of_float_types_leaves_the_op_in_float(tensor: str):
    s = space(chain("Conv", "MatMul"), op_types={"Conv": {tensor: {"dtype": ["float32"]}}})
    assert s.ops == ("MatMul_1",)
    assert s.in_float == {"Conv_0": "op_types.Conv"}
    assert s.warnings == ()


@pytest.mark.parametrize(
    ("options", "part", "dtype"),
    [
        ({"activation": {"dtype": ["bfloat16"]}}, "activation.dtype", "bfloat16"),
        ({"weight": {"dtype": ["float32", "bfloat16"]}}, "weight.dtype", "bfloat16"),
        ({"fallback": "bfloat16"}, "fallback", "bfloat16"),
    ],
)
def test_a_float_type_that_the_target_lacks_is_refused(options, part, dtype):
    told = rf'op_names\.Conv_0 {part}: the target computes float ops in float32 or float16, not in "{dtype}"'
    with pytest.raises(InputError, match=told):
        space(chain("Conv", "MatMul"), op_names={"Conv_0": options})


def test_a_section_holds_ops_to_a_float_type_also_those_without_options():
    held = {"weight": {"dtype": "float16"}}
    s = space(chain("Conv", "MatMul", "Relu"), op_types={"Conv": held, "Relu": held})
    assert s.ops == ("MatMul_1",)
    assert s.half_ops == {"Conv_0": "float16", "Relu_2": "float16"}
    assert s.in_float == {"Conv_0": "op_types.Conv", "Relu_2": "op_types.Relu"}
    assert [row.options for row in s.describe() if row.op_type != "MatMul"] == [
        "float16 by op_types.Conv",
        "float16 by op_types.Relu",
    ]
    assert s.float_types == ("float32",)


def test_a_fallback_goes_before_float32_for_its_ops_alone():
    s = space(
        chain("Conv", "Conv", "MatMul"),
        op_types={"Conv": {"fallback": "float16"}},
        op_names={"Conv_1": {"fallback": "float32"}},
    )
    assert s.float_types == ("float16", "float32")
    assert [s.falls_back_to(op, "float16") for op in s.ops] == [True, False, False]
    assert all(s.falls_back_to(op, "float32") for op in s.ops)
    assert s.options == space(chain("Conv", "Conv", "MatMul")).options
    assert s.allows("Conv_0", OpConfig("float", float_type="float16"))
    assert not s.allows("Conv_1", OpConfig("float", float_type="float16"))


def test_nothing_is_put_back_to_another_type_than_float32_unasked():
    assert space(chain("Conv", "MatMul")).float_types == ("float32",)


def test_a_float_type_beside_integer_types_takes_no_op_out():
    s = space(chain("Conv"), op_types={"Conv": {"activation": {"dtype": ["uint8", "float32"]}}})
    assert s.options == space(chain("Conv")).options
    assert '"float32" (beside integer types; strategies put ops back' in s.warnings[0]


def test_a_name_can_take_back_what_a_type_leaves_in_float():
    s = space(
        chain("Conv", "Conv"),
        op_types={"Conv": {"weight": {"dtype": "float32"}}},
        op_names={"Conv_1": {"weight": {"dtype": "int8"}}},
    )
    assert s.ops == ("Conv_1",)


def test_an_op_can_be_held_to_one_approach():
    s = space(chain("MatMul", "MatMul"), approach="auto", op_names={"MatMul_1": {"approach": "dynamic"}})
    assert [o.approach for o in s.options["MatMul_0"]] == ["static"] * 6 + ["dynamic"] * 2
    assert [o.approach for o in s.options["MatMul_1"]] == ["dynamic"] * 2


def test_options_of_static_activations_do_not_take_dynamic_away():
    entropy = {"MatMul": {"activation": {"method": "entropy"}}}
    s = space(chain("MatMul"), approach="auto", op_types=entropy)
    assert [o.approach for o in s.options["MatMul_0"]] == ["static"] * 2 + ["dynamic"] * 2
    alone = space(chain("MatMul"), approach="dynamic", op_types=entropy)
    assert alone.size == 2
    assert 'op_types.MatMul activation.method "entropy".' in alone.warnings[0]


def test_a_group_size_that_no_row_offers_is_told():
    grouped = {"weight": {"granularity": ["per_group", "per_channel"], "group_size": 32}}
    s = space(chain("MatMul"), op_types={"MatMul": grouped})
    assert weights(s.options["MatMul_0"]) == ["per_channel"]
    assert (
        'op_types.MatMul weight.granularity "per_group"; op_types.MatMul weight.group_size 32.'
        in s.warnings[0]
    )
