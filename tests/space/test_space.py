from itertools import combinations, islice, product

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from disttune.config.errors import InputError
from disttune.config.quantization_section import QuantizationSection
from disttune.config.recipes import RECIPES
from disttune.config.schemes import FLOAT32, OpConfig
from disttune.space.build import build_space
from disttune.space.candidate import Candidate
from disttune.space.capability import load_capability
from disttune.space.float_recipes import FLOAT_RECIPES
from disttune.space.space import Space
from disttune.space.summary import ModelSummary
from tests.builders import chain, model, op

METHODS = frozenset({"minmax", "percentile"})
FIRST, LAST = "first_conv_or_matmul_quantization", "last_conv_or_matmul_quantization"
PRE_POST = "pre_post_process_quantization"
ALL_ON = {FIRST: True, LAST: True, PRE_POST: True}


def space(summary: ModelSummary, **quantization: object) -> Space:
    return build_space(summary, load_capability("ort-cpu"), QuantizationSection(**quantization), METHODS)


@st.composite
def summaries(draw: st.DrawFn) -> ModelSummary:
    types = st.sampled_from(["Conv", "MatMul", "Gemm", "LSTM", "Relu", "Add", "Shape"])
    ops = []
    for i in range(draw(st.integers(1, 4))):
        inputs = draw(st.lists(st.sampled_from(["x", *(o.outputs[0] for o in ops)]), min_size=1, max_size=2))
        ops.append(op(draw(types), f"op_{i}", tuple(inputs), draw(st.sampled_from([0, 1, 8]))))
    return model(*ops)


@st.composite
def spaces(draw: st.DrawFn) -> tuple[ModelSummary, Space]:
    """A random model with a random job, and its space."""
    summary = draw(summaries())
    granularity = st.lists(st.sampled_from(["per_tensor", "per_channel"]), min_size=1, unique=True)
    dtype = st.lists(st.sampled_from(["uint8", "uint16", "int8", "float32"]), min_size=1, unique=True)
    section = st.fixed_dictionaries(
        {},
        optional={
            "weight": st.fixed_dictionaries({"granularity": granularity}),
            "activation": st.fixed_dictionaries({"dtype": dtype}),
        },
    )
    recipe = st.lists(st.booleans(), min_size=1, unique=True)
    quantization = {
        "approach": draw(st.sampled_from(["static", "dynamic", "auto"])),
        "placement": draw(st.sampled_from(["speed", "all"])),
        "op_types": draw(st.dictionaries(st.sampled_from([o.op_type for o in summary.ops]), section)),
        "op_names": draw(st.dictionaries(st.sampled_from([o.name for o in summary.ops]), section)),
        "recipes": draw(st.dictionaries(st.sampled_from([FIRST, LAST, PRE_POST]), recipe))
        | draw(st.dictionaries(st.just("dedicated_qdq_pair"), st.booleans())),
    }
    try:
        return summary, space(summary, **quantization)
    except InputError:
        assume(False)
        raise


@given(spaces())
def test_every_index_is_another_candidate_and_every_candidate_has_an_index(drawn: tuple[ModelSummary, Space]):
    _, s = drawn
    assume(s.size <= 2000)
    candidates = list(s)
    assert len(candidates) == s.size
    assert len({c.digest for c in candidates}) == s.size
    assert len({(tuple(c.configs().items()), c.recipes) for c in candidates}) == s.size
    assert [s.index(c) for c in candidates] == list(range(s.size))


@given(spaces())
def test_the_space_is_what_brute_force_makes_of_its_options_and_open_recipes(
    drawn: tuple[ModelSummary, Space],
):
    _, s = drawn
    assume(s.size <= 2000)
    unions = {
        frozenset().union(*(s.float_recipes[r] for r in some))
        for n in range(len(s.float_recipes) + 1)
        for some in combinations(s.float_recipes, n)
    }
    expected = {
        tuple(FLOAT32 if name in union else config for name, config in zip(s.ops, configs, strict=True))
        for union in unions
        if len(union) < len(s.ops)
        for configs in product(*s.options.values())
    }
    assert {tuple(c.configs().values()) for c in s} == expected
    assert s.size == len(expected)


@given(spaces())
def test_the_op_wise_space_is_the_product_in_order_with_the_last_op_fastest(
    drawn: tuple[ModelSummary, Space],
):
    _, s = drawn
    s = s.op_wise()
    floats = s.float_sets[0]
    choices = [(FLOAT32,) if name in floats else options for name, options in s.options.items()]
    expected = islice(product(*choices), 500)
    assert [tuple(c.configs().values()) for c in islice(s, 500)] == list(expected)
    assert s.default_candidate() == s[0] == next(iter(s))


@given(spaces(), st.integers(0))
def test_every_candidate_of_a_space_survives_the_journal(drawn: tuple[ModelSummary, Space], position: int):
    _, s = drawn
    candidate = s[position % s.size]
    assert Candidate.from_dict(candidate.to_dict(), s.ops) == candidate
    assert candidate in s
    assert candidate.quantized_ops


@given(spaces())
def test_an_op_is_in_the_space_or_in_float_by_a_key_or_not_quantizable(drawn: tuple[ModelSummary, Space]):
    summary, s = drawn
    assert set(s.ops).isdisjoint(s.in_float)
    assert all(config.quantized for options in s.options.values() for config in options)
    assert list(s.types) == [o.name for o in summary.ops if o.name in s.options or o.name in s.in_float]
    assert sum(row.n_ops for row in s.describe()) == len(s.types)


def test_the_default_is_the_first_option_of_every_op():
    s = space(chain("Conv", "Relu", "Gemm"))
    assert s.default_candidate().configs() == {op: options[0] for op, options in s.options.items()}
    assert s.default_candidate().recipes == ()


def test_ops_and_op_types_come_in_graph_order():
    s = space(chain("MatMul", "Conv", "Relu", "MatMul"))
    assert s.ops == ("MatMul_0", "Conv_1", "MatMul_3")
    assert s.op_types == ("MatMul", "Conv")


def test_auto_prefers_static_and_takes_dynamic_where_static_cannot():
    s = space(chain("Conv", "LSTM"), approach="auto")
    default = s.default_candidate()
    assert [default.config_of(op).approach for op in s.ops] == ["static", "dynamic"]
    assert [o.approach for o in s.options["Conv_0"]] == ["static"] * 4 + ["dynamic"]


@pytest.mark.parametrize(
    ("recipes", "sets"),
    [
        (ALL_ON, [""]),
        ({**ALL_ON, FIRST: False}, [""]),
        ({}, ["", "A", "C", "R", "AC", "AR", "CR", "ACR"]),
        ({PRE_POST: True}, ["", "A", "C", "AC"]),
        ({**ALL_ON, FIRST: [True, False]}, ["", "A"]),
        ({**ALL_ON, FIRST: [False, True]}, ["A", ""]),
        ({PRE_POST: True, LAST: [False, True]}, ["C", "AC", "", "A"]),
        ({FIRST: False}, ["", "C", "R", "CR"]),
    ],
)
def test_open_recipes_make_float_sets_the_default_first(recipes: dict[str, object], sets: list[str]):
    summary = model(
        op("Relu", "R", ("x",)),
        op("Conv", "A", ("R.out",)),
        op("Conv", "B", ("A.out",)),
        op("Gemm", "C", ("B.out",)),
    )
    s = space(summary, placement="all", recipes=recipes)
    assert ["".join(sorted(names)) for names in s.float_sets] == sets


def test_a_recipe_that_is_fixed_off_takes_its_ops_out_of_the_space():
    s = space(chain("Conv", "Conv", "Conv"), recipes={FIRST: False, LAST: False})
    assert s.ops == ("Conv_1",)
    assert s.in_float == {"Conv_0": f"recipes.{FIRST}", "Conv_2": f"recipes.{LAST}"}
    assert s.float_sets == (frozenset(),)


def test_pre_and_post_processing_is_what_lies_on_no_path_between_first_and_last():
    summary = model(
        op("Mul", "scale", ("x",)),
        op("Conv", "first", ("scale.out",)),
        op("Relu", "left", ("first.out",)),
        op("Relu", "right", ("first.out",)),
        op("Add", "join", ("left.out", "right.out")),
        op("Sigmoid", "dead_end", ("left.out",)),
        op("Add", "beside", ("x",)),
        op("Gemm", "last", ("join.out", "beside.out")),
        op("Softmax", "after", ("last.out",)),
    )
    s = space(summary, placement="all")
    assert s.float_recipes[PRE_POST] == {"scale", "dead_end", "beside", "after"}


def test_a_recipe_that_leaves_nothing_quantized_is_not_tried():
    s = space(chain("Conv", "Relu"))
    assert s.float_sets == (frozenset(),)
    assert s.float_recipes == {}
    two = space(chain("Conv", "Conv"))
    assert [sorted(names) for names in two.float_sets] == [[], ["Conv_0"], ["Conv_1"]]


def test_other_recipes_are_in_every_candidate_when_they_differ_from_the_default():
    on = space(chain("Conv"), recipes={"dedicated_qdq_pair": True, "add_qdq_pair_to_weight": False})
    assert {c.recipes for c in on} == {(("dedicated_qdq_pair", True),)}
    assert space(chain("Conv")).default_candidate() not in on


def test_recipes_of_the_float_graph_are_in_no_candidate():
    given = {"graph_optimization_level": "ENABLE_EXTENDED", "gemm_to_matmul": True}
    assert space(chain("Conv"), recipes=given).recipes == {}


def test_op_types_in_a_recipe_must_be_in_the_model():
    name = "optypes_to_exclude_output_quant"
    assert space(chain("Conv", "Relu"), recipes={name: ["Conv"]}).recipes == {name: "Conv"}
    with pytest.raises(InputError, match=rf'recipes\.{name}: no op type "Covn"\. Nearest: "Conv"'):
        space(chain("Conv"), recipes={name: ["Covn"]})


def test_every_recipe_that_strategies_may_change_is_a_choice_of_the_space_or_an_alternative():
    tunable = {name for name, recipe in RECIPES.items() if recipe.tunable}
    assert tunable == {*FLOAT_RECIPES, "smooth_quant_alpha"}


def test_values_that_a_job_lists_for_a_graph_pass_are_alternatives_and_the_first_is_fixed():
    s = space(chain("Conv"), recipes={"smooth_quant": True, "smooth_quant_alpha": [0.3, "auto", 0.3]})
    assert s.alternatives == {"smooth_quant_alpha": (0.3, "auto")}
    assert s.recipes == {"smooth_quant": True, "smooth_quant_alpha": 0.3}


def test_a_recipe_without_the_one_it_goes_with_is_left_out_with_a_warning():
    s = space(chain("Conv"), recipes={"smooth_quant_alpha": [0.3, 0.7]})
    assert (s.recipes, s.alternatives) == ({}, {})
    assert s.warnings == (
        "[quantization] recipes.smooth_quant_alpha has no effect without smooth_quant = true",
    )


def test_equal_choices_reached_by_a_recipe_and_by_fallback_are_equal_candidates():
    s = space(chain("Conv", "Conv", "Conv"))
    assert s.default_candidate().in_float("Conv_0") in s
    assert s.default_candidate().in_float("Conv_1") not in s


@pytest.mark.parametrize("index", [-1, "size", 10**40])
def test_an_index_outside_the_space_is_an_index_error(index: int | str):
    s = space(chain("Conv"))
    with pytest.raises(IndexError, match="4 candidates"):
        s[s.size if index == "size" else index]


def test_integer_shape_arithmetic_is_not_quantized():
    summary = model(op("Conv"), op("Gather", "of_shape", has_float_data=False), op("Gather", "of_data"))
    assert space(summary, placement="all").ops == ("Conv", "of_data")


def test_describe_has_one_row_for_each_type_and_list_of_options():
    summary = model(
        op("Conv", "a"), op("MatMul", "b"), op("MatMul", "c", channels=0), op("Conv", "d"), op("Gemm")
    )
    s = space(summary, op_types={"Gemm": {"weight": {"dtype": "float32"}}})
    activation = "activation uint8 asymmetric per tensor [minmax, percentile 99.999]"
    weight = "weight int8 symmetric [per channel, per tensor] minmax"
    assert [(r.op_type, r.n_ops, r.n_options, r.options) for r in s.describe()] == [
        ("Conv", 2, 4, f"static: {activation}, {weight}"),
        ("MatMul", 1, 4, f"static: {activation}, {weight}"),
        ("MatMul", 1, 2, f"static: {activation}"),
        ("Gemm", 1, 1, "float32 by op_types.Gemm"),
    ]


def test_a_model_without_quantizable_op_is_told_with_what_would_do():
    told = (
        r'no quantizable op: target "ort-cpu" with approach "static", placement "speed" quantizes '
        r"Conv, Gemm, MatMul; the model has Add, Cos, Relu\. "
        r'With another approach or placement = "all": Add, Relu\.'
    )
    with pytest.raises(InputError, match=told):
        space(chain("Relu", "Add", "Cos"))


def test_ops_that_lack_a_constant_weight_are_told():
    with pytest.raises(InputError, match="Those in both have no constant weight or no float data"):
        space(model(op("MatMul", channels=0)), approach="dynamic")


def test_a_job_that_leaves_every_op_in_float_is_told_with_the_keys():
    with pytest.raises(
        InputError, match=r"\[quantization\] op_types.Conv, recipes.first_conv.* leave all 2 of them"
    ):
        space(
            chain("Conv", "Gemm"), op_types={"Conv": {"weight": {"dtype": "float32"}}}, recipes={FIRST: False}
        )


def test_two_thousand_ops_are_counted_and_indexed():
    summary = chain(*["Conv", "Relu", "MatMul", "Add"] * 500)
    s = space(
        summary, approach="auto", placement="all", op_names={"Conv_.*": {"activation": {"method": "minmax"}}}
    )
    assert s.size > 10**30
    assert s.size_text.startswith("about ")
    assert s.index(s[s.size // 3]) == s.size // 3


def test_equal_options_are_one_object_so_that_large_spaces_stay_small():
    s = space(chain(*["Conv"] * 100))
    assert len({id(options) for options in s.options.values()}) == 1
    assert isinstance(s.options["Conv_0"][0], OpConfig)


def test_a_target_sets_recipes_where_the_job_says_nothing():
    summary, capability = chain("Conv"), load_capability("tensorrt")
    silent = build_space(summary, capability, QuantizationSection())
    assert silent.default_candidate().recipes == (("quantize_bias", False),)
    section = QuantizationSection(recipes={"quantize_bias": True})
    assert build_space(summary, capability, section).default_candidate().recipes == ()


def test_presets_hold_to_what_a_target_takes():
    approaches = ("static", "dynamic", "weight_only")
    names = {
        target: set(
            build_space(
                chain("Conv", "Relu", "Gemm"),
                load_capability(target),
                QuantizationSection(),
                approaches=approaches,
            ).presets
        )
        for target in ("tensorrt", "vitis-ai", "openvino")
    }
    heavy = "Conv, MatMul and Gemm only"
    assert names == {
        "tensorrt": {"percentile 99.99"},
        "vitis-ai": {heavy},
        "openvino": {heavy, "percentile 99.99", "weights only"},
    }


def test_a_reduced_range_is_a_recipe_of_every_candidate():
    summary = chain("Conv", "Gemm")
    reduced = build_space(summary, load_capability("ort-cpu"), QuantizationSection(), reduce_range=True)
    candidates = [reduced.default_candidate(), reduced[reduced.size - 1], *reduced.presets.values()]
    assert {c.recipes for c in candidates} == {(("reduce_range", True),)}
    full = build_space(summary, load_capability("ort-cpu"), QuantizationSection())
    assert full.default_candidate().digest != reduced.default_candidate().digest
