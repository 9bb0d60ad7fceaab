"""Ranges that are known beforehand: from numpy, onnxruntime, the literature, or by thought."""

from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto
from onnxruntime.quantization.quant_utils import compute_scale_zp_float8

from disttune.config.schemes import Scheme
from disttune.quantize.parameters import parameters
from disttune.quantize.statistics.tensor_statistics import TensorStatistics
from disttune.quantize.thresholds.density import Density
from disttune.quantize.thresholds.entropy import least_loss
from disttune.quantize.thresholds.registry import activation_range
from tests.quantize.plain_statistics import statistics_of

N = 200_000


@pytest.fixture(scope="module")
def gaussian() -> TensorStatistics:
    """Quantiles of the normal distribution: no sampling noise."""
    inverse = NormalDist().inv_cdf
    return statistics_of([inverse((i + 0.5) / N) for i in range(N)])


@settings(deadline=None)
@given(
    st.lists(st.floats(-100, 100, width=32), min_size=200, max_size=300),
    st.sampled_from([50.0, 90.0, 99.0, 99.9, 100.0]),
    st.booleans(),
)
def test_percentile_is_that_of_numpy_within_a_bin(values, percent, symmetric):
    statistics = statistics_of(values)
    found = activation_range(statistics, Scheme("int8", symmetric, method="percentile", parameter=percent))
    exact = np.sort(np.abs(np.float32(values)) if symmetric else np.float32(values))
    # numpy's neighbours: which of two values a share falls between is a matter of convention
    tails = (percent / 100,) if symmetric else ((1 - percent / 100) / 2, (1 + percent / 100) / 2)
    bounds = [(np.quantile(exact, t, method="lower"), np.quantile(exact, t, method="higher")) for t in tails]
    widths = Density.of(statistics).widths.max() if any(values) else 0.0
    reaches = (found[1] if found[1] > -found[0] else -found[0],) if symmetric else found
    for reach, (lower, higher) in zip(reaches, bounds, strict=True):
        before = exact[max(np.searchsorted(exact, lower) - 1, 0)]
        assert min(before, 0 if not symmetric else before) - widths <= reach
        assert reach <= max(higher, 0) + widths


def test_percentile_of_a_fine_histogram_is_that_of_numpy():
    values = np.random.default_rng(0).gamma(2, 1, 100_000).astype(np.float32) - 1
    statistics = statistics_of(values)
    for percent in (90.0, 99.0, 99.9):
        low, high = activation_range(
            statistics, Scheme("uint8", False, method="percentile", parameter=percent)
        )
        wanted = np.quantile(values, [(1 - percent / 100) / 2, (1 + percent / 100) / 2])
        assert (low, high) == pytest.approx(tuple(wanted), abs=float(Density.of(statistics).step))
    reach = np.quantile(np.abs(values), 0.99)
    _, high = activation_range(statistics, Scheme("int8", True, method="percentile", parameter=99.0))
    assert high == pytest.approx(reach, abs=float(Density.of(statistics).step))


def test_percentile_of_relu_starts_at_zero():
    values = np.maximum(np.random.default_rng(0).standard_normal(10_000), 0)
    low, high = activation_range(
        statistics_of(values), Scheme("uint8", False, method="percentile", parameter=99.0)
    )
    assert low == 0
    assert high == pytest.approx(np.quantile(values, 0.995), abs=0.01)


def test_percentile_of_a_hundred_is_the_observed_range(gaussian):
    found = activation_range(gaussian, Scheme("uint8", False, method="percentile", parameter=100.0))
    assert found == (gaussian.minimum, gaussian.maximum)


@pytest.mark.parametrize(("dtype", "symmetric", "reach"), [
    ("uint8", False, 3.92), ("int8", True, 3.92), ("uint4", False, 2.51), ("int4", True, 2.51),
])  # fmt: skip
def test_least_squared_error_of_a_gaussian_is_where_the_literature_has_it(gaussian, dtype, symmetric, reach):
    low, high = activation_range(gaussian, Scheme(dtype, symmetric, method="mse"))
    assert (high - low) / 2 == pytest.approx(reach, abs=0.05)


def test_higher_powers_of_the_error_clip_less(gaussian):
    reaches = [
        activation_range(gaussian, Scheme("int4", True, method="lp", parameter=p))[1] for p in (1, 2, 2.4, 4)
    ]
    assert reaches == sorted(reaches)
    assert reaches[1] == pytest.approx(
        activation_range(gaussian, Scheme("int4", True, method="mse"))[1], rel=0.01
    )


def test_heavier_saturation_clips_less(gaussian):
    reaches = [
        activation_range(gaussian, Scheme("int4", True, method="sqnr", parameter=gamma))[1]
        for gamma in (1, 3, 30)
    ]
    assert reaches == sorted(reaches)
    assert reaches[0] == pytest.approx(
        activation_range(gaussian, Scheme("int4", True, method="mse"))[1], rel=0.02
    )


@pytest.mark.parametrize(("dtype", "symmetric"), [("uint8", False), ("int8", True)])
def test_entropy_of_a_gaussian_clips_the_tails_only(dtype, symmetric):
    """With samples, noise in the bins moves the optimum down; without noise it is at 4.77."""
    values = np.random.default_rng(1).standard_normal(10**5)
    low, high = activation_range(statistics_of(values), Scheme(dtype, symmetric, method="entropy"))
    assert (-low, high) == pytest.approx((4.2, 4.2), abs=0.6)
    edges = np.arange(-2048, 2049) / 256
    mass = 1e9 * np.diff([NormalDist().cdf(edge) for edge in edges])
    low, high = least_loss(Density.from_bins(edges, mass, -8, 8), Scheme(dtype, symmetric))
    assert (-low, high) == pytest.approx((4.77, 4.77), abs=0.1)


@pytest.mark.parametrize(("dtype", "symmetric"), [("uint8", False), ("int8", True), ("uint4", False)])
@pytest.mark.parametrize("method", ["entropy", "mse", "sqnr"])
def test_a_uniform_distribution_keeps_its_range(method, dtype, symmetric):
    values = np.linspace(-1, 1, 400_001)
    scheme = Scheme(dtype, symmetric, method=method)
    low, high = activation_range(statistics_of(values), scheme)
    step = float(parameters(-1, 1, scheme)[0])
    assert (low, high) == pytest.approx(
        (-1, 1), abs=step / 2 + 1e-6
    )  # codes are half a step wide at the ends


@pytest.mark.parametrize(("dtype", "symmetric"), [("uint8", False), ("int8", True)])
@pytest.mark.parametrize("far", [100.0, 1e4, 1e6])
def test_entropy_lets_go_of_a_few_far_outliers(far, dtype, symmetric):
    """One in ten thousand at `far` standard deviations; onnxruntime's defaults keep them."""
    values = np.random.default_rng(3).standard_normal(10**5)
    values[:10] = far
    low, high = activation_range(statistics_of(values), Scheme(dtype, symmetric, method="entropy"))
    assert -5 < low < -3
    assert 3 < high < 5


@pytest.mark.parametrize("method", ["entropy", "mse"])
def test_values_on_a_grid_keep_their_tails(method):
    """Dequantized features of 0.58 a step, most near zero and some far below: clipping them is no gain."""
    random = np.random.default_rng(5)
    steps = random.laplace(-1, 3, 30_000).round().clip(-211, 40)
    steps[:600] = random.integers(-211, -30, 600)
    values = 0.5847029 * steps
    low, high = activation_range(statistics_of(values), Scheme("uint8", False, method=method))
    assert (values < low).mean() + (values > high).mean() < 1e-3


def test_outliers_make_the_density_logarithmic_and_nothing_else():
    values = np.random.default_rng(3).standard_normal(10**5)
    assert not Density.of(statistics_of(values)).logarithmic
    assert not Density.of(statistics_of(values * 1e-6)).logarithmic
    values[0] = 1e3
    assert Density.of(statistics_of(values)).logarithmic


@pytest.mark.parametrize("far", [1.0, 50.0, 1e6])
@pytest.mark.parametrize("mean", [0.0, 2.5, -40.0])
def test_distribution_gives_the_scale_of_onnxruntime(mean, far):
    """To a part in a hundred: it has the deviation of a histogram; also with an outlier."""
    values = np.random.default_rng(3).normal(mean, 1, 10**5).astype(np.float32)
    values[0] = far
    scheme = Scheme("float8e4m3fn", True, method="distribution")
    scale, _ = parameters(*activation_range(statistics_of(values), scheme), scheme)
    _, wanted = compute_scale_zp_float8(
        TensorProto.FLOAT8E4M3FN, values.std(dtype=np.float64).astype(np.float32)
    )
    assert scale == pytest.approx(float(wanted), rel=1e-2)


@pytest.mark.parametrize("values", [[5.0] * 1000, [1e-3, 1e-3]])
def test_distribution_of_equal_values_takes_their_range(values):
    low, high = activation_range(statistics_of(values), Scheme("float8e5m2", True, method="distribution"))
    assert (low, high) == (0, np.float32(values[0]))


@pytest.mark.parametrize("method", ["pow2_nonoverflow", "pow2_mse"])
@pytest.mark.parametrize(("dtype", "symmetric"), [("int8", True), ("uint8", False), ("float8e4m3fn", True)])
def test_power_of_two_methods_give_such_scales(gaussian, method, dtype, symmetric):
    scheme = Scheme(dtype, symmetric, method=method)
    scale, _ = parameters(*activation_range(gaussian, scheme), scheme)
    assert np.frexp(scale)[0] == 0.5
