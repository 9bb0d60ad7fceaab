"""Schemes, op configs and threshold methods."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from disttune.config.errors import InputError
from disttune.config.schemes import METHODS, QUANTIZED_DTYPES, OpConfig, Scheme, parse_method

_schemes = st.builds(
    Scheme,
    dtype=st.sampled_from(QUANTIZED_DTYPES),
    symmetric=st.booleans(),
    granularity=st.sampled_from(["per_tensor", "per_channel", "per_group"]),
    group_size=st.none() | st.integers(1, 1024),
    method=st.sampled_from(list(METHODS)),
    parameter=st.none() | st.floats(0, 100),
)
_op_configs = st.builds(
    OpConfig,
    approach=st.sampled_from(["static", "dynamic", "weight_only", "float"]),
    weight=st.none() | _schemes,
    activation=st.none() | _schemes,
    float_type=st.sampled_from(["float32", "float16"]),
)


@given(config=_op_configs)
def test_op_config_is_equal_after_json(config):
    assert OpConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(("text", "parsed"), [
    ("minmax", ("minmax", None)), ("percentile", ("percentile", 99.999)),
    ("percentile:99.9", ("percentile", 99.9)),
    ("percentile:100", ("percentile", 100.0)),
])  # fmt: skip
def test_method_is_split_into_name_and_parameter(text, parsed):
    assert parse_method(text) == parsed


@pytest.mark.parametrize(("text", "message"), [
    ("minmx", 'no threshold method "minmx". Nearest: "minmax". '
     "All: distribution, entropy, minmax, mse, percentile."),
    ("entropy:8", 'threshold method "entropy" takes no parameter; "entropy:8" was given'),
    ("percentile:", 'threshold method "percentile:": "" is not a number'),
    ("percentile:0", 'threshold method "percentile:0": a percentile is more than 0 and at most 100'),
    ("percentile:100.1", 'threshold method "percentile:100.1": a percentile is more than 0 and at most 100'),
    ("percentile:nan", 'threshold method "percentile:nan": a percentile is more than 0 and at most 100'),
])  # fmt: skip
def test_wrong_method_is_told(text, message):
    with pytest.raises(InputError) as caught:
        parse_method(text)
    assert str(caught.value) == message
