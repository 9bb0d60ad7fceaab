"""Merging, and agreement with plain numpy on everything at once."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from disttune.quantize.statistics.batch import NanError
from disttune.quantize.statistics.histogram import exponent_for
from disttune.quantize.statistics.layout import Samples
from disttune.quantize.statistics.tensor_statistics import TensorStatistics
from tests.quantize.statistics.observed import (
    bins,
    counters,
    observed,
    observed_rectified,
    packed,
    rows,
)

EDGES = [0.0, -0.0, *(s * 2.0**p for s in (1, -1) for p in (-149, -127, -126, -41, -1, 0, 3, 11, 24, 99))]
MASKS = [np.inf, -np.inf, float(np.finfo(np.float32).max), -float(np.finfo(np.float32).max), 1.0000001e30]
VALUES = st.one_of(
    st.floats(width=32, allow_nan=False),
    st.floats(-4, 4, width=32),
    st.sampled_from(EDGES + MASKS),
)
FEEDS = st.lists(
    hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=3, min_side=0, max_side=5), elements=VALUES),
    min_size=1,
    max_size=9,
)


def samples_of(feeds: list[np.ndarray]) -> list[Samples]:
    """Every second feed is one sample as a whole, and so is one without rows."""
    return [Samples(a, len(a) if i % 2 and len(a) else 1) for i, a in enumerate(feeds)]


@settings(max_examples=200)
@given(FEEDS)
def test_statistics_are_those_of_plain_numpy(feeds):
    statistics = observed(samples_of(feeds), at_once=4)
    everything = np.concatenate([feed.ravel() for feed in feeds])
    values = everything[np.abs(everything) < np.float32(1e30)]
    assert statistics.n == values.size
    assert statistics.n_excluded == everything.size - values.size
    assert statistics.n_zero == np.sum(values == 0)
    assert statistics.minimum == values.min(initial=np.inf if values.size else 0)
    assert statistics.maximum == values.max(initial=-np.inf if values.size else 0)
    assert statistics.exponent == exponent_for(statistics.absmax)
    assert np.array_equal(statistics.counts, bins(values, statistics.exponent))
    assert np.array_equal(statistics.log_counts, counters(values))


@given(FEEDS)
def test_each_sample_has_its_own_extrema(feeds):
    samples = samples_of(feeds)
    expected = []
    for row in (row for part in samples for row in (part.values if part.n > 1 else [part.values])):
        kept = row[np.abs(row) < np.float32(1e30)]
        expected.append((kept.min(), kept.max()) if kept.size else (0, 0))
    statistics = observed(samples)
    assert statistics.n_samples == len(expected)
    assert np.array_equal((statistics.sample_minima, statistics.sample_maxima), np.transpose(expected))


@settings(max_examples=200)
@given(FEEDS, st.integers(1, 4))
def test_what_a_relu_makes_of_the_values_follows_from_them(feeds, at_once):
    samples = samples_of(feeds)
    rectified = [Samples(np.maximum(part.values, 0), part.n) for part in samples]
    assert packed(observed_rectified(samples, at_once)) == packed(observed(rectified))


@settings(max_examples=200)
@given(FEEDS, st.integers(1, 7), st.integers(1, 7), st.randoms(use_true_random=False))
def test_shards_merge_to_the_same_bytes_however_the_feeds_are_spread(feeds, n_shards, at_once, random):
    samples = samples_of(feeds)
    bounds = [0, *sorted(random.choices(range(len(samples) + 1), k=n_shards - 1)), len(samples)]
    shards = [observed(samples[a:b], at_once) for a, b in itertools.pairwise(bounds)]
    assert packed(TensorStatistics.merged(shards)) == packed(observed(samples, at_once=len(samples)))


@given(FEEDS)
def test_merging_is_associative(feeds):
    parts = [observed([part]) for part in samples_of(feeds)]
    pairs = [TensorStatistics.merged(parts[i : i + 2]) for i in range(0, len(parts), 2)]
    assert packed(TensorStatistics.merged(pairs)) == packed(TensorStatistics.merged(parts))


def test_nothing_merged_is_empty_and_empty_changes_nothing():
    some = observed(rows(np.array([[-1.5, 0.0]], np.float32)))
    empty = TensorStatistics.empty()
    assert packed(TensorStatistics.merged([])) == packed(empty)
    assert packed(TensorStatistics.merged([empty, some, empty])) == packed(some)
    assert empty.absmax == 0.0


def test_a_tensor_of_zeros_of_both_signs_is_in_one_bin_and_no_counter():
    statistics = observed(rows(np.array([[0.0, -0.0], [-0.0, -0.0]], np.float32)))
    assert (statistics.n, statistics.n_zero, statistics.absmax) == (4, 4, 0.0)
    assert np.flatnonzero(statistics.counts).tolist() == [2048]
    assert not statistics.log_counts.any()
    assert not np.signbit([statistics.minimum, *statistics.sample_minima]).any()


def test_denormals_keep_their_bins_beside_large_values():
    values = np.array([[-1e-45, 1e-45, 5e29]], np.float32)
    statistics = observed(rows(values))
    assert (
        np.flatnonzero(statistics.counts).tolist()
        == np.flatnonzero(bins(values, statistics.exponent)).tolist()
    )
    assert statistics.counts[2047] == statistics.counts[2048] == 1


def test_samples_larger_than_what_is_worked_on_at_a_time_are_the_same_in_any_company():
    random = np.random.default_rng(1)
    feeds = [
        random.standard_normal((n, size)).astype(np.float32)
        for n, size in [(2, 150_001), (5, 7), (1, 65_536)]
    ]
    together = observed(rows(*feeds), at_once=3)
    assert packed(together) == packed(observed(rows(*feeds), at_once=1))
    assert np.array_equal(
        together.counts, bins(np.concatenate([f.ravel() for f in feeds]), together.exponent)
    )
    assert together.sample_maxima[1] == feeds[0][1].max()


def test_float16_counts_as_what_it_is_in_float32():
    values = np.random.default_rng(2).standard_normal((3, 5)).astype(np.float16)
    assert packed(observed(rows(values))) == packed(observed(rows(values.astype(np.float32))))


def test_nan_names_its_sample_and_takes_nothing_in():
    good = np.ones((2, 3), np.float32)
    bad = np.array([[1, 1], [1, np.nan]], np.float32)
    with pytest.raises(NanError) as raised:
        observed(rows(good, bad, good), at_once=3)
    assert raised.value.sample == 3
