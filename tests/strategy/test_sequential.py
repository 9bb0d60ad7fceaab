"""Sequential: the configs of a script in their documented order, each as a candidate of the model."""

import pytest

from disttune.config.algorithms.dynamic import DynamicQuantConfig
from disttune.config.algorithms.static import StaticQuantConfig
from disttune.config.errors import InputError
from disttune.config.schemes import OpConfig, Scheme
from disttune.strategy.config_candidates import candidate_of
from disttune.strategy.sequential import Sequential
from disttune.strategy.tuning import Tuning
from tests.builders import model, op
from tests.strategy.tunings import GOAL, proposals, space_of, tuning_of


def quantized(candidate) -> list[str]:
    return list(candidate.quantized_ops)


def test_lists_expand_with_the_first_named_parameter_fastest_and_configs_follow_one_another():
    configs = [
        StaticQuantConfig(per_channel=[False, True], activation_sym=[False, True]),
        StaticQuantConfig(calibrate_method="entropy"),
    ]

    candidates = proposals(Sequential(configs), tuning_of("Conv"))

    seen = [
        (c.weight.granularity, c.activation.symmetric, c.activation.method)
        for c in (candidate.config_of("Conv_0") for candidate in candidates)
    ]
    assert seen == [
        ("per_tensor", False, "minmax"),
        ("per_channel", False, "minmax"),
        ("per_tensor", True, "minmax"),
        ("per_channel", True, "minmax"),
        ("per_tensor", False, "entropy"),
    ]


def test_a_model_level_list_is_the_outer_product():
    config = StaticQuantConfig(per_channel=[False, True], quant_last_matmul=[True, False])

    candidates = proposals(Sequential([config]), tuning_of("Conv", "MatMul"))

    seen = [(c.config_of("Conv_0").weight.granularity, len(quantized(c))) for c in candidates]
    assert seen == [("per_tensor", 2), ("per_channel", 2), ("per_tensor", 1), ("per_channel", 1)]


def test_configs_may_be_tables_of_a_job_file():
    tables = [{"algorithm": "static", "per_channel": [False, True]}, {"algorithm": "dynamic"}]
    objects = [StaticQuantConfig(per_channel=[False, True]), DynamicQuantConfig()]
    tuning = tuning_of("MatMul", approach="auto")

    assert proposals(Sequential(tables), tuning) == proposals(Sequential(objects), tuning)


def test_a_config_says_how_every_op_that_the_target_can_do_is_computed():
    (candidate,) = proposals(
        Sequential(
            [StaticQuantConfig(weight_type="uint8", weight_sym=False, calibrate_method="percentile:99")]
        ),
        tuning_of("Conv", "Relu", "Gemm"),
    )

    config = OpConfig(
        "static", Scheme("uint8", False), Scheme("uint8", False, method="percentile", parameter=99.0)
    )
    assert candidate.configs() == {"Conv_0": config, "Gemm_2": config}


def test_dynamic_leaves_ops_in_float_that_have_no_dynamic_form():
    (candidate,) = proposals(
        Sequential([DynamicQuantConfig()]), tuning_of("Add", "MatMul", approach="auto", placement="all")
    )

    assert quantized(candidate) == ["MatMul_1"]
    assert candidate.config_of("MatMul_1").approach == "dynamic"


def test_an_op_without_a_constant_weight_takes_the_activation_scheme_alone():
    summary = model(op("MatMul", "scores", channels=0), op("MatMul", "out", ("scores.out",)))
    tuning = Tuning(space_of(summary), summary, GOAL)

    (candidate,) = proposals(Sequential([StaticQuantConfig(per_channel=True)]), tuning)

    assert candidate.config_of("scores").weight is None
    assert candidate.config_of("out").weight is not None


def test_op_types_to_quantize_bounds_the_ops():
    config = StaticQuantConfig(op_types_to_quantize=[["Conv"], ["MatMul", "Gemm"], None])

    candidates = proposals(Sequential([config]), tuning_of("Conv", "MatMul", "Gemm"))

    assert [quantized(c) for c in candidates] == [
        ["Conv_0"],
        ["MatMul_1", "Gemm_2"],
        ["Conv_0", "MatMul_1", "Gemm_2"],
    ]


def test_nodes_to_exclude_stay_in_float():
    config = StaticQuantConfig(nodes_to_exclude=["Conv_0", "Gemm_2"])

    (candidate,) = proposals(Sequential([config]), tuning_of("Conv", "MatMul", "Gemm"))

    assert quantized(candidate) == ["MatMul_1"]


def test_a_node_that_was_fused_is_excluded_by_its_own_name():
    summary = model(op("Conv", "conv", sources=("conv", "norm")), op("Conv", "other", ("conv.out",)))
    tuning = Tuning(space_of(summary), summary, GOAL)

    candidate = candidate_of(StaticQuantConfig(nodes_to_exclude=["norm"]), tuning)

    assert quantized(candidate) == ["other"]


@pytest.mark.parametrize(
    ("op_types", "left"),
    [
        (("MatMul", "Conv", "MatMul", "Gemm"), ["MatMul_0", "Conv_1", "Gemm_3"]),
        (("Conv", "Gemm"), ["Conv_0", "Gemm_1"]),  # there is no MatMul to leave out
    ],
)
def test_quant_last_matmul_false_leaves_out_the_last_matmul_of_the_graph(op_types, left):
    config = StaticQuantConfig(quant_last_matmul=False)

    (candidate,) = proposals(Sequential([config]), tuning_of(*op_types))

    assert quantized(candidate) == left


@pytest.mark.parametrize(
    ("parameter", "message"),
    [
        (
            {"nodes_to_exclude": ["Conv_O"]},
            'config set: the model has no node "Conv_O". Nearest: "Conv_0". All: Conv_0, Relu_1.',
        ),
        (
            {"op_types_to_quantize": ["Conv2d"]},
            'config set: the model has no operator type "Conv2d". Nearest: "Conv". All: Conv, Relu.',
        ),
    ],
)
def test_unknown_names_are_told_before_any_candidate_is_drawn(parameter, message):
    strategy = Sequential([StaticQuantConfig(), StaticQuantConfig(**parameter)])

    with pytest.raises(InputError) as caught:
        next(strategy.stages(tuning_of("Conv", "Relu")))

    assert str(caught.value) == message


def test_no_config_is_an_error():
    with pytest.raises(InputError, match="configs is empty; give at least one"):
        Sequential([])


def test_a_format_that_cannot_be_built_is_an_error():
    with pytest.raises(InputError, match='quant_format "qoperator" cannot be built yet; use "qdq"'):
        Sequential([StaticQuantConfig(quant_format="QOperator")])


def test_candidates_have_the_recipes_of_the_space():
    tuning = tuning_of("Conv", recipes={"dedicated_qdq_pair": True})
    (candidate,) = proposals(Sequential([StaticQuantConfig()]), tuning)
    assert candidate.recipes == (("dedicated_qdq_pair", True),)
