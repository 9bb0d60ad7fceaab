"""Recipes switched and ops moved to another approach."""

import pytest

from disttune.config.quantization_section import QuantizationSection
from disttune.config.schemes import FLOAT32
from disttune.space.build import build_space
from disttune.space.capability import load_capability
from disttune.space.changes import has_both_approaches, in_approach, switched_to, with_recipes_switched
from tests.builders import chain

METHODS = frozenset({"minmax", "percentile"})
FIRST, LAST = "first_conv_or_matmul_quantization", "last_conv_or_matmul_quantization"
PRE_POST = "pre_post_process_quantization"


def space(*op_types, **quantization):
    summary = chain(*op_types)
    return build_space(summary, load_capability("ort-cpu"), QuantizationSection(**quantization), METHODS)


def in_float(candidate):
    return [op for op in candidate.ops if candidate.config_of(op) == FLOAT32]


def test_an_open_recipe_that_is_switched_leaves_its_ops_in_float():
    s = space("Conv", "MatMul", "Gemm")
    start = s.default_candidate()
    assert in_float(with_recipes_switched(s, start, [FIRST])) == ["Conv_0"]
    assert in_float(with_recipes_switched(s, start, [FIRST, LAST])) == ["Conv_0", "Gemm_2"]


def test_a_recipe_that_is_off_by_default_brings_its_ops_back():
    s = space("Conv", "MatMul", "Gemm", recipes={FIRST: [False, True]})
    start = s.default_candidate()
    assert in_float(start) == ["Conv_0"]
    assert in_float(with_recipes_switched(s, start, [FIRST])) == []


def test_an_op_that_another_recipe_holds_stays_in_float():
    s = space(
        "Relu", "Conv", "Gemm", placement="all", recipes={FIRST: [False, True], PRE_POST: [False, True]}
    )
    switched = with_recipes_switched(s, s.default_candidate(), [FIRST])
    assert in_float(switched) == ["Relu_0"]


def test_other_choices_of_the_candidate_stay():
    s = space("Conv", "MatMul", "Gemm")
    start = s.default_candidate().with_configs({"MatMul_1": s.options["MatMul_1"][3]})
    assert with_recipes_switched(s, start, [LAST]).config_of("MatMul_1") == s.options["MatMul_1"][3]


def test_one_approach_for_each_op():
    s = space("Conv", "LSTM", approach="auto")
    assert {o.approach for o in in_approach(s).options["Conv_0"]} == {"static"}
    assert {o.approach for o in in_approach(s, "dynamic").options["Conv_0"]} == {"dynamic"}
    assert {o.approach for o in in_approach(s).options["LSTM_1"]} == {"dynamic"}
    assert has_both_approaches(s) == ("Conv_0",)


@pytest.mark.parametrize("granularity", ["per_channel", "per_tensor"])
def test_an_op_that_moves_to_dynamic_keeps_what_both_have(granularity):
    s = space("MatMul", "Gemm", approach="auto")
    clipped = [o for o in s.options["MatMul_0"] if o.activation.method != "minmax"]
    static = next(o for o in clipped if o.weight.granularity == granularity)
    moved = switched_to(s, s.default_candidate().with_configs({"MatMul_0": static}), "dynamic")
    assert moved.config_of("MatMul_0").weight.granularity == granularity
    assert {c.approach for c in moved.configs().values()} == {"dynamic"}


def test_what_is_in_float_does_not_move():
    s = space("MatMul", "Gemm", approach="auto")
    moved = switched_to(s, s.default_candidate().in_float("Gemm_1"), "dynamic")
    assert in_float(moved) == ["Gemm_1"]
