import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from disttune.quantize.statistics.histogram import (
    N_BINS,
    ZERO_EXPONENT,
    bin_edges,
    coarsened,
    exponent_for,
    log_bin_edges,
)
from tests.quantize.statistics.observed import bins, observed, rows

MAGNITUDES = st.floats(2.0**-149, 2.0**99, width=32)


@given(MAGNITUDES)
def test_the_exponent_is_the_least_with_room_for_a_value(absmax):
    exponent = exponent_for(absmax)
    assert absmax < 2048 * 2.0**exponent
    assert absmax >= 2048 * 2.0 ** (exponent - 1)


@pytest.mark.parametrize("power", [-149, -126, -11, -1, 0, 1, 10, 11, 12, 99])
def test_a_power_of_two_lies_below_the_limit_not_on_it(power):
    assert exponent_for(2.0**power) == power - 10
    assert exponent_for(np.nextafter(2.0**power, 0)) == power - 11


def test_zeros_have_an_exponent_below_that_of_every_number():
    assert exponent_for(0.0) == ZERO_EXPONENT == exponent_for(2.0**-149) - 1


@given(st.lists(st.integers(0, N_BINS - 1), max_size=20), st.integers(0, 14))
def test_coarser_bins_are_what_binning_with_them_gives(filled, steps):
    counts = np.bincount(filled, minlength=N_BINS)
    middles = (bin_edges(0)[:-1] + bin_edges(0)[1:]) / 2
    assert np.array_equal(coarsened(counts, steps), bins(middles[filled], steps))


def test_zero_is_an_edge_of_bins_and_of_counters():
    assert bin_edges(-3)[2048] == 0
    assert log_bin_edges()[1024] == 0


def test_counters_are_a_sixteenth_of_an_octave_from_2_to_the_minus_40_to_2_to_the_24():
    edges = log_bin_edges()
    assert edges.shape == (2049,)
    assert edges[2048] == 2.0**24
    assert edges[1024 + 16] == 2.0**-39
    assert edges[1024 + 40 * 16 + 1] == 1 + 1 / 16
    assert np.array_equal(edges, -edges[::-1])
    assert np.all(np.diff(edges) > 0)


def test_a_counter_begins_with_its_edge_on_both_sides_of_zero():
    log_counts = observed(rows(np.array([[1.0, -1.0]], np.float32))).log_counts
    assert np.flatnonzero(log_counts).tolist() == [1023 - 640, 1024 + 640]


def test_magnitudes_beyond_the_counters_are_in_the_nearest():
    values = np.array([[1e-20, -1e-45, 1e20, -9e29]], np.float32)
    assert np.flatnonzero(observed(rows(values)).log_counts).tolist() == [0, 1023, 1024, 2047]
