"""Each method equals a slow plain implementation (`plain`), whatever the values and the scheme."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from disttune.config.schemes import METHODS, Scheme
from disttune.quantize.parameters import parameters
from disttune.quantize.statistics.tensor_statistics import TensorStatistics
from disttune.quantize.thresholds.registry import activation_range
from tests.quantize.plain_statistics import statistics_of
from tests.quantize.thresholds import plain

SEARCHED = ["percentile", "entropy", "mse", "lp", "sqnr", "pow2_mse"]
RANDOM = np.random.default_rng(5)
VALUES = {
    "two signs": RANDOM.standard_normal(40),
    "skewed": RANDOM.gamma(2, 1, 40) - 1,
    "relu": np.maximum(RANDOM.standard_normal(80), 0),
    "negative": -RANDOM.gamma(1, 1, 50),
    "outlier": np.append(RANDOM.standard_normal(150), [2000.0]),
    "on an edge": np.clip(RANDOM.standard_normal(40), -1, 1),
    "far from zero": RANDOM.uniform(5, 6, 40),
    "constant": np.full(9, -0.3),
    "denormal": RANDOM.standard_normal(30) * 1e-40,
    "huge": RANDOM.standard_normal(30) * 1e29,
}
SCHEMES = [
    ("uint8", False),
    ("int8", True),
    ("int8", False),
    ("uint4", False),
    ("int4", True),
    ("float8e4m3fn", True),
    ("float8e5m2", False),
]

EVERY_SCHEME = ["two signs", "relu", "outlier", "on an edge"]
CASES = [(v, *scheme) for v in VALUES for scheme in (SCHEMES if v in EVERY_SCHEME else SCHEMES[:2])]


def plain_range(statistics: TensorStatistics, scheme: Scheme) -> tuple[float, float]:
    density = plain.PlainDensity(statistics)
    parameter = METHODS[scheme.method] if scheme.parameter is None else scheme.parameter
    arguments = () if parameter is None else (parameter,)
    return getattr(plain, scheme.method)(density, scheme, *arguments)


@pytest.mark.parametrize(("values", "dtype", "symmetric"), CASES)
@pytest.mark.parametrize("method", SEARCHED)
def test_range_equals_that_of_the_plain_implementation(method, values, dtype, symmetric):
    statistics = statistics_of(VALUES[values])
    scheme = Scheme(dtype, symmetric, method=method, parameter=90.0 if method == "percentile" else None)
    assert activation_range(statistics, scheme) == pytest.approx(plain_range(statistics, scheme), rel=1e-12)


def test_power_of_two_scale_goes_down_to_a_hundred_and_twenty_eighth():
    values = np.append(np.random.default_rng(1).standard_normal(100_000), [250.0])
    scheme = Scheme("int4", True, method="pow2_mse")
    statistics = statistics_of(values)
    low, high = activation_range(statistics, scheme)
    assert (low, high) == pytest.approx(plain_range(statistics, scheme), rel=1e-12)
    whole, _ = parameters(-250, 250, scheme)
    assert parameters(low, high, scheme)[0] == whole / 128


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.floats(-1000, 1000, width=32), min_size=1, max_size=20),
    st.sampled_from(SCHEMES),
    st.sampled_from(["percentile", "entropy", "mse", "lp:1", "lp:4", "sqnr:1", "pow2_mse"]),
)
def test_any_values_give_what_the_plain_implementation_gives(values, dtype_and_symmetric, method):
    statistics = statistics_of(values)
    name, _, parameter = method.partition(":")
    scheme = Scheme(*dtype_and_symmetric, method=name, parameter=float(parameter) if parameter else None)
    if any(values):
        found, wanted = activation_range(statistics, scheme), plain_range(statistics, scheme)
        assert found == pytest.approx(wanted, rel=1e-12, abs=1e-300)


@settings(deadline=None)
@given(
    st.lists(st.lists(st.floats(-1000, 1000, width=32), min_size=1, max_size=5), min_size=1, max_size=30),
    st.floats(0.001, 1),
)
def test_moving_average_equals_the_loop_over_samples(samples, constant):
    lengths = {len(sample) for sample in samples}
    samples = [sample[: min(lengths)] for sample in samples]
    statistics = statistics_of(samples, len(samples))
    scheme = Scheme("uint8", False, method="ema", parameter=constant)
    wanted = plain.ema([min(s) for s in samples], [max(s) for s in samples], constant)
    assert activation_range(statistics, scheme) == pytest.approx(wanted, rel=1e-9, abs=1e-9)


def test_moving_average_of_all_samples_at_once_does_not_depend_on_blocks():
    values = np.random.default_rng(1).standard_normal((12, 50))
    whole = statistics_of(values, 12)
    parts = TensorStatistics.merged([statistics_of(values[i : i + 4], 4) for i in (0, 4, 8)])
    scheme = Scheme("uint8", False, method="ema", parameter=0.2)
    assert activation_range(whole, scheme) == activation_range(parts, scheme)


@pytest.mark.parametrize("method", ["minmax", "pow2_nonoverflow"])
@pytest.mark.parametrize(("values", "wanted"), [
    ([-1.5, 2.25], (-1.5, 2.25)), ([3.0, 4.0], (0.0, 4.0)), ([-3.0, -2.0], (-3.0, 0.0)), ([0.0], (0.0, 0.0)),
])  # fmt: skip
def test_observed_range_with_zero(method, values, wanted):
    assert activation_range(statistics_of(values), Scheme("uint8", False, method=method)) == wanted


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", ["int16", "uint16"])
def test_sixteen_bit_types_take_the_observed_range(method, dtype):
    statistics = statistics_of(VALUES["outlier"])
    found = activation_range(statistics, Scheme(dtype, True, method=method))
    assert found == (statistics.minimum, statistics.maximum)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("values", [[], [0.0, -0.0], [np.inf, -np.inf, -3.4e38]])
def test_no_value_but_zero_gives_an_empty_range(method, values):
    assert activation_range(statistics_of(values), Scheme("int8", True, method=method)) == (0.0, 0.0)


@pytest.mark.parametrize("method", set(METHODS) - {"distribution"})
@pytest.mark.parametrize("values", VALUES)
@pytest.mark.parametrize(("dtype", "symmetric"), SCHEMES[:2])
def test_ranges_contain_zero_and_lie_within_the_observed_one(method, values, dtype, symmetric):
    statistics = statistics_of(VALUES[values], 3)
    low, high = activation_range(statistics, Scheme(dtype, symmetric, method=method))
    assert min(statistics.minimum, 0) <= low <= 0 <= high <= max(statistics.maximum, 0)
    assert low < high


@pytest.mark.parametrize("method", METHODS)
def test_masks_and_infinities_do_not_count(method):
    values = np.random.default_rng(2).standard_normal(500).astype(np.float32)
    masked = np.concatenate((values, [np.inf, -np.inf, np.float32(-3.4e38)]))
    scheme = Scheme("uint8", False, method=method)
    assert activation_range(statistics_of(masked), scheme) == activation_range(statistics_of(values), scheme)
