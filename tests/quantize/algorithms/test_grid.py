"""The grid of the weight algorithms against the quantizer of plain weights, and by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from disttune.config.errors import TrialError
from disttune.config.schemes import Scheme
from disttune.quantize.algorithms.grid import grid_of
from disttune.quantize.weights import quantize_weight

SCHEMES = [
    Scheme(dtype, symmetric, granularity, 8 if granularity == "per_group" else None)
    for dtype, symmetric in [("int4", True), ("uint4", False), ("int8", True), ("uint8", False)]
    for granularity in ("per_tensor", "per_channel", "per_group")
]


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(SCHEMES), st.integers(1, 21), st.integers(1, 4))
def test_plain_rounding_gives_the_codes_and_values_of_plain_weights(
    seed: int, scheme: Scheme, n_inputs: int, n_outputs: int
) -> None:
    weight = np.random.default_rng(seed).normal(size=(n_inputs, n_outputs)).astype(np.float32)
    plain = quantize_weight(weight, scheme, 0 if scheme.group_size else 1)
    grid = grid_of(weight[None].astype(np.float64), scheme)
    codes = grid.round(weight[None].astype(np.float64))
    assert np.array_equal(codes[0], plain.codes)
    assert np.allclose(grid.values(codes)[0], plain.dequantized(), rtol=1e-6, atol=0)


def test_parts_have_scales_of_their_own_but_per_tensor() -> None:
    weight = np.stack([np.full((4, 2), 0.5), np.full((4, 2), 2.0)])
    shapes = [grid_of(weight, scheme).scale.shape for scheme in SCHEMES[:3]]
    assert shapes == [(1, 1, 1), (2, 1, 2), (2, 1, 2)]
    of_second = grid_of(weight, SCHEMES[1]).part(1)
    assert of_second.scale.shape == (1, 1, 2)
    assert of_second.scale[0, 0, 0] == pytest.approx(4 / 15)


def test_last_group_is_as_short_as_it_is() -> None:
    weight = np.concatenate([np.full((1, 8, 1), 1.0), np.full((1, 2, 1), 3.0)], axis=1)
    grid = grid_of(weight, Scheme("uint4", False, "per_group", 8))
    assert grid.scale.ravel().tolist() == pytest.approx([1 / 15, 3 / 15])
    assert grid.values(grid.round(weight)).ravel() == pytest.approx(weight.ravel())


def test_a_searched_range_never_has_more_error() -> None:
    weight = np.random.default_rng(3).laplace(size=(1, 400, 5))
    scheme = Scheme("int4", True, "per_channel")
    errors = []
    for threshold in ("minmax", "mse"):
        grid = grid_of(weight, scheme, threshold)
        errors.append(np.square(grid.values(grid.round(weight)) - weight).sum(axis=1))
    assert (errors[1] <= errors[0] * (1 + 1e-6)).all()
    assert errors[1].sum() < 0.8 * errors[0].sum()


def test_a_weight_with_nan_has_no_grid() -> None:
    with pytest.raises(TrialError, match="NaN"):
        grid_of(np.full((1, 2, 2), np.nan), SCHEMES[0])
