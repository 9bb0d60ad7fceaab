"""What a range costs: prefix sums against loops over pieces of bins, for any density and quantizer."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from disttune.config.schemes import Scheme
from disttune.quantize.parameters import levels_of
from disttune.quantize.thresholds.density import Density
from disttune.quantize.thresholds.entropy import divergence
from disttune.quantize.thresholds.lp import power_error
from disttune.quantize.thresholds.mse import squared_error
from disttune.quantize.thresholds.sqnr import weighted_error
from tests.quantize.plain_statistics import statistics_of
from tests.quantize.thresholds import plain

schemes = st.builds(
    Scheme,
    st.sampled_from(["uint8", "int8", "uint4", "int4", "float8e4m3fn", "float8e5m2"]),
    st.booleans(),
    method=st.sampled_from(["minmax", "pow2_mse"]),
)
values = st.lists(
    st.one_of(st.floats(-4, 4, width=32), st.floats(-1e4, 1e4, width=32), st.sampled_from([0.0, 1.0, -2.0])),
    min_size=1,
    max_size=40,
).filter(any)
shares = st.floats(0.01, 1)


@settings(max_examples=60, deadline=None)
@given(values, schemes, shares, shares)
def test_costs_equal_those_of_loops(values, scheme, low_share, high_share):
    statistics = statistics_of(values)
    density, plainly = Density.of(statistics), plain.PlainDensity(statistics)
    low, high = plainly.low * low_share, plainly.high * high_share
    quantizers, every = levels_of(np.array([low]), np.array([high]), scheme), plain.levels(low, high, scheme)

    def near(wanted: float, p: float) -> object:
        return pytest.approx(wanted, rel=1e-9, abs=1e-12 * plain.error_of(plainly, [0.0, np.inf], p))

    assert squared_error(density, quantizers)[0] == near(plain.error_of(plainly, every, 2), 2)
    assert weighted_error(density, quantizers, 3)[0] == near(plain.error_of(plainly, every, 2, 3), 2)
    for p in (1, 2.4, 4):
        assert power_error(density, quantizers, p)[0] == near(plain.error_of(plainly, every, p), p)
    lost = plain.information_lost(plainly, every)
    assert divergence(density, quantizers)[0] == pytest.approx(lost, rel=1e-9, abs=1e-10)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(-40, 12), min_size=20, max_size=200).filter(any),
    st.sampled_from(["uint8", "int8", "uint4"]),
    st.booleans(),
    shares,
    shares,
)
def test_a_divergence_is_never_negative(steps, dtype, symmetric, low_share, high_share):
    """Gibbs' inequality; on values far apart, so that most bins are empty, the clipped ones' as well."""
    density = Density.of(statistics_of([0.5847 * step for step in steps]))
    ends = density.edges[:1] * low_share, density.edges[-1:] * high_share
    quantizers = levels_of(*ends, Scheme(dtype, symmetric))
    if quantizers.gaps[0, 0] >= 2 * density.widths.max():
        assert divergence(density, quantizers)[0] > -1e-4


@settings(max_examples=30, deadline=None)
@given(values, schemes)
def test_squared_error_is_that_of_quantizing_many_points_of_the_density(values, scheme):
    """64 points in each bin, each to its nearest level."""
    density = Density.of(statistics_of(values))
    quantizers = levels_of(density.edges[:1], density.edges[-1:], scheme)
    inside = (np.arange(64) + 0.5) / 64
    points = density.edges[:-1, None] + density.widths[:, None] * inside
    every = np.array(plain.levels(float(density.edges[0]), float(density.edges[-1]), scheme))
    nearest = every[np.searchsorted(quantizers.edges[0], points)]
    wanted = (density.mass[:, None] / 64 * (points - nearest) ** 2).sum()
    coarse = (density.mass * density.widths**2).sum() / 64  # what 64 points cannot resolve
    assert squared_error(density, quantizers)[0] == pytest.approx(wanted, rel=1e-6, abs=coarse)


@settings(deadline=None)
@given(values, st.integers(1, 300))
def test_coarsened_and_folded_densities_hold_the_same_values(values, n_bins):
    density = Density.of(statistics_of(values))
    coarse, folded = density.coarsened(n_bins), density.folded()
    zero = np.searchsorted(density.edges, 0)
    assert coarse.n_nonzero == pytest.approx(density.n_nonzero)
    assert set(coarse.edges) <= set(density.edges)
    assert 0 in coarse.edges
    assert coarse.cumulative[np.searchsorted(coarse.edges, 0)] == density.cumulative[zero]
    assert folded.n_nonzero == pytest.approx(density.n_nonzero)
    assert folded.squares == pytest.approx(density.squares, rel=1e-6)
    assert folded.edges[0] == 0
