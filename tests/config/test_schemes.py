"""Schemes, op configs and threshold methods."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from disttune.config.errors import InputError
from disttune.config.schemes import (
    METHODS,
    QUANTIZED_DTYPES,
    OpConfig,
    Scheme,
    parse_method,
    parse_scheme_method,
)

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
    ("ema", ("ema", 0.01)), ("ema:1", ("ema", 1.0)),
    ("sqnr", ("sqnr", 3.0)), ("sqnr:1.5", ("sqnr", 1.5)),
    ("lp", ("lp", 2.4)), ("lp:1", ("lp", 1.0)), ("lp:4", ("lp", 4.0)),
    ("pow2_nonoverflow", ("pow2_nonoverflow", None)), ("pow2_mse", ("pow2_mse", None)),
])  # fmt: skip
def test_method_is_split_into_name_and_parameter(text, parsed):
    assert parse_method(text) == parsed


@pytest.mark.parametrize(("text", "message"), [
    ("minmx", 'no threshold method "minmx". Nearest: "minmax". '
     "All: distribution, ema, entropy, lp, minmax, mse, percentile, pow2_mse, pow2_nonoverflow, sqnr."),
    ("entropy:8", 'threshold method "entropy" takes no parameter; "entropy:8" was given'),
    ("percentile:", 'threshold method "percentile:": "" is not a number'),
    ("percentile:0", 'threshold method "percentile:0": a percentile is more than 0 and at most 100'),
    ("percentile:100.1", 'threshold method "percentile:100.1": a percentile is more than 0 and at most 100'),
    ("ema:0", 'threshold method "ema:0": a share of the newest sample is more than 0 and at most 1'),
    ("ema:1.1", 'threshold method "ema:1.1": a share of the newest sample is more than 0 and at most 1'),
    ("sqnr:0.9", 'threshold method "sqnr:0.9": a weight of saturation is at least 1 and at most 1000'),
    ("sqnr:inf", 'threshold method "sqnr:inf": a weight of saturation is at least 1 and at most 1000'),
    ("lp:0.5", 'threshold method "lp:0.5": a power is at least 1 and at most 4'),
    ("lp:nan", 'threshold method "lp:nan": a power is at least 1 and at most 4'),
    ("pow2_mse:8", 'threshold method "pow2_mse" takes no parameter; "pow2_mse:8" was given'),
    ("percentile:nan", 'threshold method "percentile:nan": a percentile is more than 0 and at most 100'),
])  # fmt: skip
def test_wrong_method_is_told(text, message):
    with pytest.raises(InputError) as caught:
        parse_method(text)
    assert str(caught.value) == message


def test_a_reduced_range_is_written_where_it_is_one_and_read_again():
    scheme = Scheme("int8", True, reduce_range=True)
    assert scheme.to_dict()["reduce_range"] is True
    assert "reduce_range" not in Scheme("int8", True).to_dict()
    assert Scheme.from_dict(scheme.to_dict()) == scheme
    assert str(scheme) == "int8 (reduced range) symmetric per tensor minmax"


def test_an_option_that_is_a_word_takes_its_words_alone():
    assert parse_scheme_method("adaround:scale=SeqMSE") == ("adaround", None, (("scale", "seqmse"),))
    assert parse_scheme_method("adaround:scale=auto") == ("adaround", None, ())
    with pytest.raises(InputError, match=r'option scale: no value "seqms". Nearest: "seqmse"'):
        parse_scheme_method("adaround:scale=seqms")
