"""Configs of weight-only algorithms: names and lists of the peer, what they ask for, and text."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import disttune
from disttune import AWQConfig, GPTQConfig, HQQConfig, RTNConfig, SmoothQuantConfig, StaticQuantConfig
from disttune.config.algorithms import AlgorithmConfig, config_from_dict, expand_config_set
from disttune.config.algorithms.composable import ComposableConfig
from disttune.config.errors import InputError
from disttune.config.schemes import FLOAT32, OpConfig, Scheme


def test_defaults_are_the_peers():
    assert RTNConfig().op_config() == OpConfig("weight_only", Scheme("int4", True, "per_group", 32, "rtn"))
    assert GPTQConfig().op_config() == OpConfig("weight_only", Scheme("int4", True, "per_group", 32, "gptq"))
    assert AWQConfig(weight_sym=False, weight_bits=8).op_config().weight == Scheme(
        "uint8", False, "per_group", 32, "awq"
    )
    assert HQQConfig().op_config().weight == Scheme("uint4", False, "per_group", 64, "hqq")


def test_first_named_parameter_varies_fastest():
    configs = RTNConfig(weight_group_size=[32, 128], weight_sym=[False, True]).expand()
    assert [(c.weight_group_size, c.weight_sym) for c in configs] == [
        (32, False), (128, False), (32, True), (128, True),
    ]  # fmt: skip
    configs = GPTQConfig(actorder=[False, True], weight_bits=[4, 8]).expand()
    assert [(c.weight_bits, c.actorder) for c in configs] == [(4, False), (8, False), (4, True), (8, True)]


def test_parameters_reach_the_weights_method():
    config = GPTQConfig(
        percdamp=0.05, block_size=64, actorder=True, mse=True, flip=True, sequential=False, accuracy_level=4
    )
    assert dict(config.op_config().weight.options) == {
        "percdamp": 0.05, "block_size": 64, "act_order": True, "mse": True, "flip": True, "sequential": False,
        "accuracy_level": 4,
    }  # fmt: skip
    awq = AWQConfig(enable_auto_scale=False, enable_mse_search=False).op_config().weight
    assert awq.options == (("clip_search", False), ("scale_search", False))
    assert HQQConfig(float_zero_point=True, iterations=5).op_config().weight.options == (
        ("float_zero_point", True), ("iterations", 5),
    )  # fmt: skip
    assert RTNConfig(mse=True).op_config().weight.options == (("mse", True),)


def test_groups_of_minus_one_are_columns_and_fp32_stays_float():
    assert RTNConfig(weight_group_size=-1).op_config().weight.granularity == "per_channel"
    tensor = GPTQConfig(weight_group_size=-1, perchannel=False).op_config().weight
    assert tensor.granularity == "per_tensor"
    assert RTNConfig(weight_dtype="fp32").op_config() == FLOAT32


def test_lists_for_tuning_have_the_peers_sizes():
    assert RTNConfig.get_config_set_for_tuning().n_configs == 4
    assert GPTQConfig.get_config_set_for_tuning().n_configs == 32
    assert AWQConfig.get_config_set_for_tuning().n_configs == 16


def test_weight_only_tuning_has_the_peers_five_in_its_order():
    configs = disttune.get_woq_tuning_config()
    assert configs == [
        RTNConfig(weight_sym=False),
        GPTQConfig(weight_sym=False),
        GPTQConfig(weight_sym=False, quant_last_matmul=False),
        GPTQConfig(weight_group_size=128, weight_sym=False),
        AWQConfig(weight_sym=False),
    ]
    assert len(expand_config_set(configs)) == 5


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RTNConfig(weight_bits=9), "RTNConfig: weight_bits must be 2 to 8; 9 was given"),
        (lambda: RTNConfig(weight_group_size=0), "weight_group_size must be -1 (per channel) or at least 1"),
        (lambda: RTNConfig(accuracy_level=5), "accuracy_level must be 0 (unset), 1, 2, 3 or 4"),
        (lambda: RTNConfig(act_dtype="int8"), 'no act_dtype "int8"'),
        (lambda: RTNConfig(ratios={"w": 0.9}), "ratios must be empty: mse=True searches the ranges"),
        (lambda: GPTQConfig(percdamp=2), "percdamp must be a number from 0 to 1; 2 was given"),
        (lambda: GPTQConfig(providers=["CUDAExecutionProvider"]), "model.providers"),
        (lambda: HQQConfig(weight_sym=True), "weight_sym must be False: hqq moves zero points"),
        (lambda: SmoothQuantConfig(alpha=1.5), "alpha must be a number from 0 to 1"),
        (lambda: RTNConfig().set_local("a(", RTNConfig()), '"a(" is no regular expression'),
        (lambda: RTNConfig().set_local("a", RTNConfig(weight_bits=[4, 8])), "must hold single values"),
    ],
)
def test_wrong_values_are_told(make, message):
    with pytest.raises(InputError) as caught:
        make()
    assert message in str(caught.value)


configs = st.one_of(
    st.builds(
        RTNConfig,
        weight_bits=st.lists(st.integers(2, 8), min_size=1, unique=True),
        weight_sym=st.booleans(),
        mse=st.booleans(),
        white_list=st.sampled_from([None, ["MatMul"], [["MatMul"], ["Gemm"]]]),
    ),
    st.builds(GPTQConfig, percdamp=st.floats(0, 1), actorder=st.lists(st.booleans(), min_size=1)),
    st.builds(AWQConfig, weight_group_size=st.sampled_from([16, -1]), quant_last_matmul=st.booleans()),
    st.builds(HQQConfig, iterations=st.integers(0, 30)),
    st.builds(SmoothQuantConfig, alpha=st.sampled_from([0.5, "auto", [0.3, 0.7]])),
)


@settings(deadline=None)
@given(configs, st.booleans())
def test_text_reads_back_as_the_same_config(config: AlgorithmConfig, with_local: bool) -> None:
    if with_local:
        config.set_local("layer.*", RTNConfig(weight_dtype="fp32")).set_local("Gemm", HQQConfig())
    for again in (
        type(config).from_json_string(config.to_json_string()),
        type(config).from_toml(config.to_toml()),
        config_from_dict(config.to_dict()),
    ):
        assert again == config
    assert (config + StaticQuantConfig()).from_toml((config + StaticQuantConfig()).to_toml()) is not None


def test_composed_configs_read_back_and_expand_with_the_first_fastest():
    both = RTNConfig(weight_bits=[4, 8]) + StaticQuantConfig(per_channel=[False, True])
    assert isinstance(both, ComposableConfig)
    assert both.n_configs == len(both.expand()) == 4
    assert [(c.configs[0].weight_bits, c.configs[1].per_channel) for c in both.expand()] == [
        (4, False), (8, False), (4, True), (8, True),
    ]  # fmt: skip
    assert ComposableConfig.from_json_string(both.to_json_string()) == both
    assert both.approaches == {"weight_only", "static"}
    assert both.needs_data
    assert not (RTNConfig() + HQQConfig()).needs_data


def test_sum_of_one_class_merges_local_configs():
    first = RTNConfig().set_local("a", RTNConfig(weight_bits=8))
    merged = first + RTNConfig(weight_bits=3).set_local("b", RTNConfig(weight_bits=2))
    assert isinstance(merged, RTNConfig)
    assert merged.weight_bits == 4
    assert dict(merged.local) == {"a": RTNConfig(weight_bits=8), "b": RTNConfig(weight_bits=2)}
    assert dict(first.local).keys() == {"a"}


def test_smooth_quant_asks_for_its_recipes():
    config = SmoothQuantConfig(alpha=0.7, per_channel=True)
    assert config.recipes() == {
        "smooth_quant": True, "smooth_quant_alpha": 0.7, "smooth_quant_scales_per_op": False,
        "smooth_quant_conv": False,
    }  # fmt: skip
    assert config.op_config() == replace(StaticQuantConfig(per_channel=True)).op_config()


def test_text_that_is_none_is_told():
    with pytest.raises(InputError, match="RTNConfig: no JSON"):
        RTNConfig.from_json_string("{")
    with pytest.raises(InputError, match="RTNConfig: no TOML"):
        RTNConfig.from_toml("=")
    with pytest.raises(InputError, match="a table of parameters"):
        RTNConfig.from_json_string("[1]")
