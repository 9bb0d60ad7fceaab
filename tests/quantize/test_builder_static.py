"""Oracle: the engine "reference", that is onnxruntime's QDQQuantizer under per-op settings.

Equal digests say it all: the same nodes on the same codes, scales and zero points, shared in the same way.
"""

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper

from disttune.config.errors import TrialError
from disttune.config.recipes import RecipeValue
from disttune.config.schemes import OpConfig, Scheme
from disttune.quantize.digest import model_digest
from disttune.space.candidate import Candidate
from tests.models import (
    Graph,
    attention,
    depthwise_cnn,
    mlp,
    recurrent,
    shared_weight,
    tiny_cnn,
    unnamed,
    value,
    with_branches,
)
from tests.quantize.engines import array, arrays, node_of, node_types, outputs, relative_error, static
from tests.quantize.pairs import Pair, without_unread_pairs
from tests.quantize.random_models import random_configs, random_model

SPEED = ("Conv", "MatMul", "Gemm")
MODELS = [tiny_cnn, depthwise_cnn, mlp, attention, shared_weight, unnamed, with_branches, recurrent]
KINDS = {
    "per channel": static(),
    "per tensor": static(per_channel=False),
    "uint8 weights": static("uint8", "uint8", per_channel=False),
    "symmetric": static("int8", "int8", symmetric=True),
    "int8 activations": static("int8", "int8"),
    "uint16 activations": static("int8", "uint16"),
    "int16 weights": static("int16", "int16", symmetric=True),
}
RECIPES: dict[str, RecipeValue] = {
    "add_qdq_pair_to_weight": True,
    "dedicated_qdq_pair": True,
    "quantize_bias": False,
    "optypes_to_exclude_output_quant": "Add,AveragePool,Conv,Gemm,MatMul,Reshape",
}
PAIRS: dict[object, Pair] = {}


def pair(make) -> Pair:
    if make not in PAIRS:
        PAIRS[make] = Pair(make(), N=2, T=4)
    return PAIRS[make]


def assert_same(models: tuple[ModelProto, ModelProto]) -> None:
    reference, fast = models
    assert node_types(fast) == node_types(reference)
    assert sorted(arrays(fast).values(), key=str) == sorted(arrays(reference).values(), key=str)
    assert model_digest(fast) == model_digest(reference)


@pytest.mark.parametrize("speed", [True, False], ids=["speed", "all"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("make", MODELS)
def test_a_uniform_candidate_is_what_the_reference_makes(make, kind, speed):
    t = pair(make)
    assert_same(t.both(t.everywhere(KINDS[kind], *(SPEED if speed else ()))))


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("make", MODELS)
def test_a_recipe_is_what_the_reference_makes_of_it(make, recipe):
    t = pair(make)
    assert_same(t.both(t.everywhere(static(), *SPEED), **{recipe: RECIPES[recipe]}))


MIXED = [KINDS[kind] for kind in ("per channel", "per tensor", "uint8 weights", "symmetric")]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), recipe=st.sampled_from(["", *RECIPES]))
def test_any_mix_over_any_graph_is_what_the_reference_makes(seed, recipe):
    t = Pair(random_model(seed), N=2)
    configs = random_configs(t.summary, seed, MIXED)
    recipes = {recipe: RECIPES[recipe] or True} if recipe else {}
    try:
        reference = t.build(configs, **recipes)
    except TrialError:
        with pytest.raises(TrialError):
            t.build_fast(configs, **recipes)
        return
    fast = t.build_fast(configs, **recipes)
    # onnxruntime leaves behind what nothing reads: second pairs for one op, the bounds of Clip.
    assert model_digest(without_unread_pairs(fast)) == model_digest(without_unread_pairs(reference))


def test_ops_that_share_a_weight_and_differ_get_a_copy_each():
    t = pair(shared_weight)
    configs = {"first": static("int8"), "second": static("uint8", per_channel=False)}
    assert_same(t.both(configs))
    assert_same(t.both({"second": static()}))
    assert_same(t.both({"first": static(), "second": static()}))


def test_ops_outside_the_space_go_with_the_first_reader_of_their_weight():
    t = pair(shared_weight)
    candidate = Candidate.of({"second": static()})
    assert_same((t.engine.build(candidate), t.fast.build(candidate)))


def line(*steps, opset: int = 17, inputs=("N", 4)) -> ModelProto:
    """A chain from x (N, 4) to y: each step is (name, op type, other inputs, attributes)."""
    g, h = Graph(), "x"
    for i, (name, kind, constants, attributes) in enumerate(steps):
        names = [g.constant(f"{name}_{j}", np.asarray(c, np.float32)) for j, c in enumerate(constants)]
        output = "y" if i == len(steps) - 1 else f"{name}_out"
        h = g.node(kind, h, *names, name=name, output=output, **attributes)
    return g.model([value("x", list(inputs))], [value("y", None)], opset)


RANDOM = np.random.default_rng(0)
SQUARE = RANDOM.standard_normal((4, 4)).astype(np.float32)


@pytest.mark.parametrize("per_channel", [True, False])
def test_a_weight_gets_larger_scales_where_its_bias_needs_them(per_channel):
    bias = np.array([3e3, 0, -1e6, 1], np.float32)
    t = Pair(line(("fc", "Gemm", (1e-7 * SQUARE, bias), {})))
    configs = {"fc": static("int8", per_channel=per_channel)}
    assert_same(t.both(configs))
    assert array(t.build_fast(configs), "fc_0_scale").max() > 1e-7
    assert np.abs(array(t.build_fast(configs), "fc_1_quantized").astype(float)).max() > 2e9


def test_a_weight_that_is_not_symmetric_gets_larger_scales_as_well():
    """Here the engines differ on purpose: onnxruntime's quantizer clips the bias."""
    bias = np.array([3e3, 0, -1e6, 1], np.float32)
    t = Pair(line(("fc", "Gemm", (1e-7 * SQUARE, bias), {})))
    reference, fast = t.both({"fc": static("uint8", "uint8", per_channel=False)})
    assert relative_error(reference, t) > 0.5
    assert relative_error(fast, t) < 0.01


@pytest.mark.parametrize("factors", [{"beta": 0.25}, {"alpha": 2.0}, {"beta": 0.25, "alpha": 2.0}])
def test_the_factor_of_a_bias_goes_into_its_codes(factors):
    """Here the engines differ on purpose: onnxruntime's quantizer loses beta."""
    t = Pair(line(("fc", "Gemm", (SQUARE, 3 * SQUARE[0]), factors)), N=16)
    reference, fast = t.both({"fc": static()})
    assert relative_error(fast, t) < 0.02
    assert (relative_error(reference, t) > 0.1) == ("beta" in factors)


@pytest.mark.parametrize("shape", [(1, 4), (1,), ()])
def test_a_bias_of_another_shape_runs(shape):
    t = Pair(line(("fc", "Gemm", (SQUARE, np.full(shape, 0.5)), {})))
    for per_channel in (True, False):
        assert relative_error(t.build_fast({"fc": static(per_channel=per_channel)}), t) < 0.03


@pytest.mark.parametrize("per_channel", [True, False])
def test_a_bias_of_more_channels_than_the_weight_has_scales_runs(per_channel):
    g = Graph()
    inputs = ["x", g.weight("w", 4, 2, 3, 3), g.weight("b", 4)]
    g.node("ConvTranspose", *inputs, name="up", output="y", group=2)
    t = Pair(g.model([value("x", ["N", 4, 5, 5])], [value("y", ["N", 4, None, None])]))
    assert relative_error(t.build_fast({"up": static(per_channel=per_channel)}), t) < 0.03


def test_a_bias_that_two_ops_read_has_codes_for_each():
    g = Graph()
    h = g.node("Gemm", "x", g.weight("w", 4, 4), g.weight("b", 4), name="first")
    h = g.node("Gemm", h, g.weight("v", 4, 4), "b", name="second")
    g.node("Add", h, "b", name="third", output="y")
    t = Pair(g.model([value("x", ["N", 4])], [value("y", ["N", 4])]))
    for ops in (["first", "second"], ["second"]):
        assert_same(t.both(dict.fromkeys(ops, static())))
    bare = OpConfig("static", None, Scheme("uint8", False))
    assert_same(t.both({"first": static(), "second": static(), "third": bare}))


def test_a_relu_that_a_graph_inside_a_node_looks_behind_stays():
    model = with_branches()
    model.graph.node.insert(1, helper.make_node("Relu", ["before_out"], ["r"], "relu"))
    model.graph.node[2].input[0] = "r"
    t = Pair(model)
    configs = {
        "before": static(),
        "relu": OpConfig("static", None, Scheme("uint8", False)),
        "after": static(),
    }
    assert node_types(t.build_fast(configs))["Relu"] == 1
    assert relative_error(t.build_fast(configs), t) < 0.05


def test_names_that_the_model_has_already_are_not_taken():
    g = Graph()
    h = g.node("MatMul", "x", g.weight("x_scale", 4, 4), name="x_QuantizeLinear", output="w_quantized")
    g.node("MatMul", h, g.weight("w", 4, 4), name="b", output="y")
    t = Pair(g.model([value("x", ["N", 4])], [value("y", ["N", 4])]))
    model = t.build_fast(t.everywhere(static()))
    onnx.checker.check_model(model, full_check=True)
    assert len({node.name for node in model.graph.node}) == len(model.graph.node)
    assert relative_error(model, t) < 0.05


def test_an_output_that_others_read_keeps_its_name():
    g = Graph()
    g.node("MatMul", "x", g.weight("w", 4, 4), name="a", output="y")
    g.node("MatMul", "y", g.weight("v", 4, 4), name="b", output="z")
    t = Pair(g.model([value("x", ["N", 4])], [value("y", ["N", 4]), value("z", ["N", 4])]))
    for ops in (["a"], ["b"], ["a", "b"]):
        for recipe in RECIPES:
            assert_same(t.both(dict.fromkeys(ops, static()), **{recipe: RECIPES[recipe]}))


@pytest.mark.parametrize("op_type", ["Relu", "Clip"])
def test_an_output_behind_which_values_are_clipped_keeps_its_own_range(op_type):
    """onnxruntime's quantizer gives it the range of what was clipped: the user loses all negative values."""
    g = Graph()
    h = g.node("MatMul", "x", g.weight("w", 4, 4), name="fc", output="before")
    limits = [g.constant("low", np.float32(0)), g.constant("high", np.float32(0.2))]
    g.node(op_type, h, *(limits if op_type == "Clip" else []), name="clip", output="y")
    t = Pair(g.model([value("x", ["N", 4])], [value("before", ["N", 4]), value("y", ["N", 4])]), N=64)
    model = t.build_fast(t.everywhere(static()))
    for expected, found in zip(outputs(t.prepared, t.feeds), outputs(model, t.feeds), strict=True):
        assert np.abs(found - expected).max() < 0.05 * np.abs(expected).max()
        assert expected.min() < -1


def test_an_input_that_is_an_output_as_well_goes_out_as_it_came_in():
    g = Graph()
    g.node("MatMul", "x", g.weight("w", 4, 4), name="fc", output="y")
    t = Pair(g.model([value("x", ["N", 4])], [value("x", ["N", 4]), value("y", ["N", 4])]))
    model = t.build_fast({"fc": static()})
    assert node_types(model)["QuantizeLinear"] == 2
    for feed, found in zip(t.feeds, outputs(model, t.feeds), strict=True):
        np.testing.assert_array_equal(found, feed["x"])


def test_outputs_that_are_left_out_stay_so():
    g = Graph()
    scale = g.weight("s", 4)
    node = helper.make_node("LayerNormalization", ["x", scale], ["y", "", "deviation"], "norm")
    g.nodes.append(node)
    t = Pair(g.model([value("x", ["N", 4])], [value("y", ["N", 4]), value("deviation", ["N", 1])]))
    assert_same(t.both({"norm": OpConfig("static", None, Scheme("uint8", False))}))


def test_a_bias_that_is_computed_is_quantized_as_an_activation():
    g = Graph()
    bias = g.node("Tanh", "b", name="tanh")
    g.node("Conv", "x", g.weight("w", 3, 2, 1, 1), bias, name="conv", output="y")
    t = Pair(g.model([value("x", ["N", 2, 4, 4]), value("b", [3])], [value("y", ["N", 3, 4, 4])]))
    assert_same(t.both({"conv": static()}))


def test_a_weight_that_is_computed_is_quantized_as_an_activation():
    g = Graph()
    weight = g.node("Tanh", "w", name="tanh")
    g.node("Conv", "x", weight, g.weight("b", 3), name="conv", output="y")
    t = Pair(g.model([value("x", ["N", 2, 4, 4]), value("w", [3, 2, 1, 1])], [value("y", ["N", 3, 4, 4])]))
    assert_same(t.both({"conv": OpConfig("static", None, Scheme("uint8", False))}))


@pytest.mark.parametrize(
    "weight",
    [
        np.zeros((4, 4)),
        np.where(np.arange(4) == 2, 0, SQUARE),
        np.full((4, 4), 1e-42),
        np.full((4, 4), 0.7),
    ],
    ids=["zeros", "a channel of zeros", "denormals", "constant"],
)
@pytest.mark.parametrize("kind", ["per channel", "per tensor", "uint8 weights"])
def test_odd_weights_are_what_the_reference_makes_of_them(weight, kind):
    t = Pair(line(("fc", "MatMul", (weight,), {})))
    assert_same(t.both({"fc": KINDS[kind]}))


def test_an_empty_weight_is_quantized():
    t = Pair(line(("fc", "MatMul", (np.zeros((4, 0)),), {})))
    assert [a.shape for a in outputs(t.build_fast({"fc": static()}), t.feeds)] == [(2, 0)] * 3


def test_a_tensor_of_zeros_is_what_the_reference_makes_of_it():
    t = Pair(line(("fc", "MatMul", (SQUARE,), {})), [{"x": np.zeros((2, 4), np.float32)}])
    assert_same(t.both({"fc": static()}))


def test_a_constant_without_dimensions_is_quantized():
    t = Pair(line(("scaled", "Mul", (np.float32(0.5),), {})))
    assert_same(t.both({"scaled": OpConfig("static", None, Scheme("uint8", False))}))


def test_an_excluded_tensor_has_no_codes_and_its_op_still_runs():
    t = pair(tiny_cnn)
    t.fast.exclude({"x"})
    try:
        model = t.build_fast(t.everywhere(static()))
    finally:
        t.fast.exclude(set())
    assert "x" in node_of(model, "conv1").input
    assert relative_error(model, t) < 0.05


def test_masks_and_infinities_do_not_widen_a_range():
    """Here the engines differ on purpose: with -3.4e38 in its range a tensor has no codes left."""
    mask = np.array([[0, 0, -3.4e38, 0]], np.float32)
    g = Graph()
    total = g.node("Add", "x", g.constant("mask", mask), name="masked")
    g.node("Softmax", total, name="softmax", output="y", axis=-1)
    t = Pair(g.model([value("x", ["N", 4])], [value("y", ["N", 4])]))
    bare = OpConfig("static", None, Scheme("uint8", False))
    reference, fast = t.both({"softmax": bare})
    assert array(reference, f"{node_of(t.prepared, 'masked').output[0]}_scale") > 1e35
    assert array(fast, f"{node_of(t.prepared, 'masked').output[0]}_scale") < 1


def test_dimensions_and_shapes_need_not_be_known():
    g = Graph()
    shape = g.node("Shape", "x", name="shape")
    filled = g.node("ConstantOfShape", shape, name="fill")
    h = g.node("Reshape", "x", g.node("Shape", filled, name="shape2"), name="reshape")
    g.node("Conv", h, g.weight("w", 3, 2, 1, 1), name="conv", output="y")
    t = Pair(g.model([value("x", ["N", 2, "H", "W"])], [value("y", None)]), N=1, H=5, W=3)
    assert_same(t.both(t.everywhere(static())))


def test_integers_stay_as_they_are():
    g = Graph()
    table = g.constant("table", np.arange(5))
    ids = g.node("Gather", table, "ids", name="ids_of")
    g.node("Gather", g.weight("t", 5, 3), ids, name="rows", output="y")
    t = Pair(
        g.model([value("ids", ["N"], TensorProto.INT64)], [value("y", ["N", 3])]), [{"ids": np.arange(3)}]
    )
    assert_same(t.both({"rows": static("uint8"), "ids_of": static("uint8")}))


def test_every_op_stays_in_float_when_nothing_gives_codes():
    t = pair(tiny_cnn)
    with pytest.raises(TrialError, match="leave all 1 ops of the candidate in float"):
        t.build_fast({"relu1": OpConfig("static", None, Scheme("uint8", False))})
