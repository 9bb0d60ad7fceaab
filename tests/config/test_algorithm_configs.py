"""Algorithm configs: values are checked, lists expand in the order of ONNX neural-compressor."""

import json
from dataclasses import FrozenInstanceError, dataclass, field
from enum import Enum

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from disttune.config.algorithms import (
    AlgorithmConfig,
    algorithm_class,
    algorithm_names,
    config_from_dict,
    expand_config_set,
    register_algorithm,
)
from disttune.config.algorithms import registry as algorithm_registry
from disttune.config.algorithms.dynamic import DynamicQuantConfig
from disttune.config.algorithms.parameter import at_least, per_op
from disttune.config.algorithms.static import StaticQuantConfig
from disttune.config.errors import InputError
from disttune.config.schemes import OpConfig, Scheme


class QuantType(Enum):  # as in onnxruntime, which this floor does not import
    QInt8 = 0
    QUInt8 = 1
    QInt16 = 3


def test_defaults_are_one_config():
    assert StaticQuantConfig().expand() == [StaticQuantConfig()]
    assert DynamicQuantConfig().expand() == [DynamicQuantConfig()]


def test_first_named_parameter_varies_fastest_and_the_model_s_parameters_outside():
    config = StaticQuantConfig(
        per_channel=[False, True], calibrate_method=["MinMax", "Entropy"], quant_last_matmul=[True, False]
    )
    assert [(c.quant_last_matmul, c.calibrate_method, c.per_channel) for c in config.expand()] == [
        (True, "minmax", False), (True, "minmax", True), (True, "entropy", False), (True, "entropy", True),
        (False, "minmax", False), (False, "minmax", True), (False, "entropy", False),
        (False, "entropy", True),
    ]  # fmt: skip


def test_order_of_keywords_does_not_change_the_order_of_configs():
    one = StaticQuantConfig(weight_sym=[True, False], weight_type=["int8", "uint8"])
    other = StaticQuantConfig(weight_type=["int8", "uint8"], weight_sym=[True, False])
    assert one.expand() == other.expand()
    assert [c.weight_type for c in one.expand()] == ["int8", "uint8", "int8", "uint8"]


_flags = st.booleans() | st.lists(st.booleans(), min_size=1, max_size=3)
_configs = st.builds(
    StaticQuantConfig,
    weight_type=st.sampled_from(["int8", ["int8", "uint8"], QuantType.QInt8]),
    per_channel=_flags,
    weight_sym=_flags,
    calibrate_method=st.sampled_from(["MinMax", ["percentile:99.9", "Entropy"]]),
    calibration_sampling_size=st.sampled_from([100, [10, 20]]),
    quant_last_matmul=_flags,
    op_types_to_quantize=st.sampled_from([None, ["Conv"], [["Conv"], ["Conv", "MatMul"], None]]),
    nodes_to_exclude=st.sampled_from([(), ["a"], [["a"], ["b", "c"]]]),
)


@given(config=_configs)
def test_expansion_holds_single_valued_configs_with_every_value(config):
    singles = config.expand()
    assert len(singles) == config.n_configs
    assert all(single.n_configs == 1 and single.expand() == [single] for single in singles)
    for name in ("per_channel", "weight_sym", "quant_last_matmul"):
        given_values = getattr(config, name)
        values = set(given_values) if isinstance(given_values, tuple) else {given_values}
        assert {getattr(s, name) for s in singles} == values


@given(config=_configs)
def test_config_is_equal_after_json(config):
    assert config_from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_position_in_the_expansion_is_a_mixed_radix_number():
    flags = [False, True]
    config = StaticQuantConfig(
        per_channel=flags, weight_sym=flags, activation_sym=flags, calibration_sampling_size=[8, 9, 10]
    )
    for position, single in enumerate(config.expand()):
        assert position == (
            single.per_channel + 2 * single.weight_sym + 4 * single.activation_sym
            + 8 * (single.calibration_sampling_size - 8)
        )  # fmt: skip


def test_several_configs_expand_one_after_another():
    configs = [DynamicQuantConfig(per_channel=[True, False]), StaticQuantConfig()]
    assert expand_config_set(configs) == [*configs[0].expand(), configs[1]]
    assert expand_config_set(configs[0]) == configs[0].expand()


@pytest.mark.parametrize(("name", "given_value", "kept"), [
    ("weight_type", QuantType.QUInt8, "uint8"), ("weight_type", "QInt8", "int8"),
    ("weight_type", "uint8", "uint8"),
    ("activation_type", [QuantType.QInt8, "uint8"], ("int8", "uint8")),
    ("calibrate_method", "Percentile", "percentile"),
    ("calibrate_method", "percentile:99.9", "percentile:99.9"),
    ("calibrate_method", "Percentile:99.9", "percentile:99.9"),
    ("calibrate_method", "Distribution", "distribution"),
    ("quant_format", "QOperator", "qoperator"), ("per_channel", np.array([True, False]), (True, False)),
    ("calibration_sampling_size", range(1, 3), (1, 2)), ("calibration_sampling_size", np.int64(7), 7),
    ("op_types_to_quantize", ["Conv"], ("Conv",)), ("op_types_to_quantize", [], ()),
    ("op_types_to_quantize", [["Conv"], None], (("Conv",), None)),
])  # fmt: skip
def test_values_are_kept_in_our_own_form(name, given_value, kept):
    assert getattr(StaticQuantConfig(**{name: given_value}), name) == kept


@pytest.mark.parametrize(("values", "text"), [
    ({"weight_type": "int7"}, 'no weight_type "int7". Nearest: "int8". All: QInt8, QUInt8, int8, uint8.'),
    ({"weight_type": QuantType.QInt16},
     'no weight_type "QInt16". Nearest: "QInt8". All: QInt8, QUInt8, int8, uint8.'),
    ({"activation_type": 8}, "activation_type must be a name; 8 was given"),
    ({"per_channel": 1}, "per_channel must be True or False; 1 was given"),
    ({"per_channel": []}, "per_channel must hold at least one value; an empty list was given"),
    ({"weight_sym": [True, "no"]}, "weight_sym must be True or False; 'no' was given"),
    ({"calibrate_method": "percentile:101"},
     'threshold method "percentile:101": a percentile is more than 0 and at most 100'),
    ({"calibration_sampling_size": 0},
     "calibration_sampling_size must be a whole number of at least 1; 0 was given"),
    ({"calibration_sampling_size": True},
     "calibration_sampling_size must be a whole number of at least 1; True was given"),
    ({"op_types_to_quantize": "Conv"}, "op_types_to_quantize must be a list of names; 'Conv' was given"),
    ({"op_types_to_quantize": [3]}, "op_types_to_quantize must be a list of names; [3] was given"),
    ({"nodes_to_exclude": None}, "nodes_to_exclude must be a list of names; None was given"),
])  # fmt: skip
def test_wrong_value_is_told(values, text):
    with pytest.raises(InputError) as caught:
        StaticQuantConfig(**values)
    assert str(caught.value) == f"StaticQuantConfig: {text}"


def test_unknown_method_names_the_nearest():
    with pytest.raises(InputError, match=r'no calibrate_method "Entrop". Nearest: "Entropy"'):
        StaticQuantConfig(calibrate_method="Entrop")


def test_all_wrong_values_are_told_together():
    with pytest.raises(InputError) as caught:
        StaticQuantConfig(per_channel=1, weight_sym=0)
    assert len(str(caught.value).splitlines()) == 2


def test_dynamic_config_takes_what_dynamic_quantization_can_do():
    with pytest.raises(InputError, match=r'no activation_type "int8". Nearest: "uint8"'):
        DynamicQuantConfig(activation_type="int8")
    with pytest.raises(InputError, match="activation_sym must be False: activations of dynamic"):
        DynamicQuantConfig(activation_sym=[False, True])


def test_op_config_of_a_static_config_has_its_schemes():
    config = StaticQuantConfig(
        weight_type="uint8",
        weight_sym=False,
        per_channel=True,
        activation_sym=True,
        calibrate_method="percentile:99.9",
    )
    assert config.op_config() == OpConfig(
        "static",
        weight=Scheme("uint8", False, "per_channel"),
        activation=Scheme("uint8", True, method="percentile", parameter=99.9),
    )


def test_op_config_of_a_dynamic_config_has_its_schemes():
    assert DynamicQuantConfig().op_config() == OpConfig(
        "dynamic", weight=Scheme("int8", True), activation=Scheme("uint8", False)
    )


def test_op_config_of_several_configs_is_refused():
    with pytest.raises(
        InputError, match=r"holds lists \(per_channel\) and stands for 2 configs; take one of expand"
    ):
        StaticQuantConfig(per_channel=[True, False]).op_config()


def test_config_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        StaticQuantConfig().per_channel = True  # type: ignore[misc]


def test_equal_configs_have_equal_hashes():
    assert hash(StaticQuantConfig(per_channel=[True, False])) == hash(
        StaticQuantConfig(per_channel=(True, False))
    )


@pytest.mark.parametrize(("data", "text"), [
    ({"algorithm": "static", "per_chanel": True},
     'StaticQuantConfig: no parameter "per_chanel". Nearest: "per_channel"'),
    ({"algorithm": "statik"}, 'no algorithm "statik". Nearest: "static"'),
    ({"per_channel": True}, 'an algorithm config needs "algorithm": one of awq, composed, dynamic,'),
])  # fmt: skip
def test_wrong_dictionary_is_told(data, text):
    with pytest.raises(InputError) as caught:
        config_from_dict(data)
    assert str(caught.value).startswith(text)


def test_dictionary_of_another_algorithm_is_refused():
    with pytest.raises(
        InputError, match='StaticQuantConfig is of algorithm "static"; the data are of "dynamic"'
    ):
        StaticQuantConfig.from_dict(DynamicQuantConfig().to_dict())


def test_shipped_algorithms_are_found_by_name():
    assert algorithm_names() == [
        "awq", "composed", "dynamic", "gptq", "hqq", "rtn", "smooth_quant", "static",
    ]  # fmt: skip
    assert algorithm_class("static") is StaticQuantConfig


def test_one_decorated_class_is_all_that_a_new_algorithm_needs(monkeypatch):
    monkeypatch.setattr(algorithm_registry, "_REGISTERED", dict(algorithm_registry._REGISTERED))

    @register_algorithm("rounding")
    @dataclass(frozen=True)
    class RoundingConfig(AlgorithmConfig):
        bits: int | list[int] = field(default=4, metadata=per_op(at_least(1)))

    assert algorithm_class("rounding") is RoundingConfig
    assert [c.to_dict() for c in RoundingConfig(bits=[4, 8]).expand()] == [
        {"algorithm": "rounding", "bits": 4}, {"algorithm": "rounding", "bits": 8},
    ]  # fmt: skip


def test_real_enums_of_onnxruntime_are_taken():
    from onnxruntime import quantization

    config = StaticQuantConfig(
        weight_type=[quantization.QuantType.QInt8, quantization.QuantType.QUInt8],
        calibrate_method=list(quantization.CalibrationMethod),
        quant_format=quantization.QuantFormat.QDQ,
    )
    assert config.weight_type == ("int8", "uint8")
    assert set(config.calibrate_method) == {"minmax", "entropy", "percentile", "distribution"}
    assert config.quant_format == "qdq"
