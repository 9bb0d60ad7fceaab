"""Precisions of a model by name, what they cost, and which ops share one."""

import math

import pytest

from disttune.config.quantization_section import QuantizationSection
from disttune.config.schemes import FLOAT32, OpConfig, Scheme
from disttune.space.build import build_space
from disttune.space.candidate import Candidate
from disttune.space.capability import load_capability
from disttune.space.cost import CostModel
from disttune.space.precisions import bits_of, is_of, precision_name
from disttune.space.quantizer_groups import quantizer_groups
from disttune.space.summary import ModelSummary, OpSummary, WeightSummary
from tests.builders import chain, model, op

INT8, INT4, UINT8 = Scheme("int8", True), Scheme("int4", True), Scheme("uint8", False)
APPROACHES = ("static", "dynamic", "weight_only")


def space_of(summary, target="ort-cpu", **quantization):
    section = QuantizationSection(**quantization)
    return build_space(summary, load_capability(target), section, approaches=APPROACHES)


def names(space, op_name):
    return {name for name, p in space.precisions.items() if op_name in p.configs}


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (FLOAT32, "float"),
        (OpConfig("static", INT4, UINT8), "W4A8"),
        (OpConfig("static", None, UINT8), "A8"),
        (OpConfig("weight_only", Scheme("uint4", False, "per_group", 32)), "W4"),
    ],
)
def test_a_precision_is_named_by_its_bits(config, name):
    assert precision_name(config) == name
    assert is_of(config, "W4A8") == (name in ("W4A8", "A8"))


def test_every_precision_of_a_static_model_has_the_widths_of_its_name():
    space = space_of(chain("Conv", "Relu", "MatMul"))
    assert {"W4A8", "W8A8", "W8A16", "W16A16", "W8"} <= names(space, "Conv_0")
    assert {"W4", "W8", "W3"} <= names(space, "MatMul_2")
    for name, precision in space.precisions.items():
        for config in precision.configs.values():
            assert is_of(config, name)
            assert space.allows(next(o for o, c in precision.configs.items() if c == config), config)


def test_only_what_the_target_has_kernels_for_is_offered_for_speed():
    scores = op("MatMul", "scores", ("Conv_0.out", "MatMul_1.out"), channels=0)
    precisions = space_of(model(*chain("Conv", "MatMul").ops, scores)).precisions
    assert {name for name, p in precisions.items() if p.offered} >= {"W8A8", "W4", "W8"}
    assert not precisions["W8A16"].fused
    assert not precisions["W4A8"].offered  # the product of two activations has no weight to be wrong about
    assert not precisions["W8A16"].offered
    assert space_of(chain("Conv", "MatMul"), placement="all").precisions["W8A16"].offered


def test_the_users_sections_limit_precisions():
    conv = {"Conv": {"weight": {"dtype": ["int8"]}}}
    assert names(space_of(chain("Conv"), op_types=conv), "Conv_0") == {"W8A8", "W8A16", "W8"}


def test_four_bits_have_a_scale_for_each_channel_where_the_job_allows_it():
    both = {"Conv": {"weight": {"granularity": ["per_tensor", "per_channel"]}}}
    one = {"Conv": {"weight": {"granularity": ["per_tensor"]}}}
    precisions = space_of(chain("Conv"), op_types=both).precisions
    assert precisions["W4A8"].configs["Conv_0"].weight.granularity == "per_channel"
    assert precisions["W8A16"].configs["Conv_0"].weight.granularity == "per_tensor"
    limited = space_of(chain("Conv"), op_types=one).precisions["W4A8"]
    assert limited.configs["Conv_0"].weight.granularity == "per_tensor"


def test_a_weight_only_job_has_no_precision_with_activations():
    space = space_of(chain("MatMul"), approach="weight_only")
    assert {"W4", "W8"} <= names(space, "MatMul_0")
    assert all("A" not in name for name in space.precisions)


def test_a_target_without_a_type_lacks_its_precisions():
    assert "W4A8" not in space_of(chain("Conv"), target="vitis-ai").precisions


def weighted(name, inputs, macs, shape=(8, 4), weight=None):
    w = WeightSummary(weight or f"{name}.w", 1, shape, shape[0], 4 * math.prod(shape))
    return OpSummary(name, "MatMul", inputs, (f"{name}.out",), w, macs)


def test_costs_are_those_of_the_formula():
    a, b = weighted("a", ("x",), 300), weighted("b", ("a.out",), 100, (2, 4))
    scores = OpSummary("s", "MatMul", ("a.out", "b.out"), ("s.out",), None, 50)
    summary = model(a, b, scores)
    costs = CostModel(summary, ["a", "b", "s"])
    both, alone = OpConfig("static", INT4, UINT8), OpConfig("weight_only", INT8)
    float_bits = 32 * math.sqrt(1.5)
    all_ops, all_bits = 450 * float_bits**2, 40 * 32
    assert costs.of("a", both) == pytest.approx(0.5 * 300 * 32 / all_ops + 0.5 * 32 * 4 / all_bits)
    assert costs.of("b", alone) == pytest.approx(
        0.5 * 100 * 8 * float_bits / all_ops + 0.5 * 8 * 8 / all_bits
    )
    assert costs.of("s", OpConfig("static", None, UINT8)) == pytest.approx(0.5 * 50 * 64 / all_ops)
    in_float = Candidate.of(dict.fromkeys(["a", "b", "s"], FLOAT32))
    assert costs.total(in_float) == pytest.approx(1)


def test_a_weight_that_two_ops_read_is_stored_once():
    summary = model(weighted("a", ("x",), 1, weight="w"), weighted("b", ("a.out",), 1, weight="w"))
    costs = CostModel(summary, ["a", "b"], "size")
    assert (costs.of("a", FLOAT32), costs.of("b", FLOAT32)) == (1, 0)


def test_groups_of_codes_cost_their_scales():
    costs = CostModel(chain("MatMul"), ["MatMul_0"], "size")
    assert costs.of("MatMul_0", OpConfig("weight_only", Scheme("uint4", False, "per_group", 32))) == 5 / 32


def test_ops_that_pass_data_on_belong_to_the_op_that_makes_it():
    summary = model(
        op("Conv", "conv", ("x",)),
        op("Relu", "relu", ("conv.out",)),
        op("Reshape", "reshape", ("relu.out",)),
        op("Gemm", "gemm", ("reshape.out",)),
        op("Add", "add", ("gemm.out", "x")),
        op("Transpose", "transpose", ("add.out",)),
    )
    ops = [o.name for o in summary.ops]
    assert quantizer_groups(summary, ops) == (("conv", "relu", "reshape"), ("gemm",), ("add", "transpose"))
    assert quantizer_groups(summary, ["conv", "reshape"]) == (("conv", "reshape"),)
    assert quantizer_groups(summary, ["transpose", "gemm"]) == (("gemm",), ("transpose",))


def test_ops_that_read_one_weight_are_one_group():
    ops = (
        weighted("a", ("x",), 1, weight="w"),
        weighted("b", ("a.out",), 1),
        weighted("c", ("b.out",), 1, weight="w"),
    )
    assert quantizer_groups(ModelSummary(ops, ("x",), ("c.out",), 21, 0, 0), "abc") == (("a", "c"), ("b",))


def test_the_width_of_a_type_is_its_first_number():
    assert [bits_of(t) for t in ("uint4", "int16", "float8e4m3fn", "bfloat16")] == [4, 16, 8, 16]
