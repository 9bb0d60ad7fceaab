"""The search for the cheapest range, with costs made up for it."""

import numpy as np
import pytest

from disttune.config.schemes import Scheme
from disttune.quantize.parameters import parameter_arrays
from disttune.quantize.thresholds.clip_search import ClipSearch, widest_of_least
from disttune.quantize.thresholds.density import Density
from disttune.quantize.thresholds.pow2_mse import pow2_ranges

TWO_SIDED = Density(np.array([-2.0, 0.0, 4.0]), np.array([1.0, 1.0]))
POSITIVE = Density(np.array([0.0, 4.0]), np.array([1.0]))


def bowl(low: float, high: float) -> ClipSearch:
    return ClipSearch(lambda rmin, rmax: (rmin - low) ** 2 + (rmax - high) ** 2)


def test_two_ends_are_found_to_a_sixteenth_of_a_step():
    found = bowl(-0.777, 3.111).best(TWO_SIDED, symmetric=False)
    assert found == pytest.approx((-0.777, 3.111), abs=4 / 32 / 16)


def test_one_end_is_found_to_a_sixteenth_of_a_step():
    assert bowl(0, 1.2345).best(POSITIVE, symmetric=False) == pytest.approx((0, 1.2345), abs=4 / 128 / 16)


def test_a_symmetric_range_is_cut_where_the_values_end():
    low, high = bowl(-2, 3.3).best(TWO_SIDED, symmetric=True)
    assert low == -2
    assert high == pytest.approx(3.3, abs=4 / 128 / 16)
    mirrored = Density(-TWO_SIDED.edges[::-1], TWO_SIDED.mass)
    low, high = bowl(-3.3, 2).best(mirrored, symmetric=True)
    assert low == pytest.approx(-3.3, abs=4 / 128 / 16)
    assert high == 2


def test_equal_costs_give_the_whole_range():
    flat = ClipSearch(lambda rmin, rmax: np.ones_like(rmin))
    assert flat.best(TWO_SIDED, symmetric=False) == (-2, 4)
    assert flat.best(TWO_SIDED, symmetric=True) == (-2, 4)


def test_a_far_outlier_is_searched_by_octaves():
    density = Density(np.array([0.0, 1.0, 1e6]), np.array([1e6, 1.0]), logarithmic=True)
    low, high = bowl(0, 0.9).best(density, symmetric=False)
    assert low == 0
    assert high == pytest.approx(0.9, rel=0.01)


def test_coarse_cost_is_for_the_first_grid_only():
    seen = []

    def coarse(rmin: np.ndarray, rmax: np.ndarray) -> np.ndarray:
        seen.append(rmax.size)
        return (rmax - 2) ** 2

    search = ClipSearch(lambda rmin, rmax: (rmax - 2.01) ** 2, coarse_cost=coarse)
    assert search.best(POSITIVE, symmetric=False)[1] == pytest.approx(2.01, abs=4 / 128 / 16)
    assert sum(seen) == 128


def test_widest_of_equal_costs_then_the_first():
    costs = np.array([1.0, 1.0 + 1e-10, 1.0, 2.0, 1.0])
    assert widest_of_least(costs, np.array([1.0, 3.0, 2.0, 9.0, 3.0])) == 1
    assert widest_of_least(costs, np.array([1.0, 3.0, 2.0, 9.0, 3.0]), noise=5.0) == 3
    assert widest_of_least(np.array([np.inf, np.inf]), np.array([1.0, 2.0])) == 1


@pytest.mark.parametrize(
    ("dtype", "symmetric", "n"), [("uint8", False, 17), ("int4", True, 1), ("float8e5m2", True, 1)]
)
def test_power_of_two_ranges_have_eight_scales_each_half_the_one_before(dtype, symmetric, n):
    random = np.random.default_rng(0)
    low, high = -random.gamma(1, 1, 50), random.gamma(1, 1, 50)
    low[:5], high[5:10] = 0, 0
    scheme = Scheme(dtype, symmetric, method="pow2_mse")
    rmin, rmax = pow2_ranges(low, high, scheme)
    assert rmin.shape == rmax.shape == (50, 1 + 7 * n)
    assert (low[:, None] <= rmin).all()
    assert (rmax <= high[:, None]).all()
    scales, _ = parameter_arrays(rmin, rmax, scheme)
    wanted = scales[:, :1] * 0.5 ** np.repeat(np.arange(8), [1] + [n] * 7)
    np.testing.assert_array_equal(scales, wanted)
    if n > 1:
        assert (
            np.median([np.unique(row).size for row in rmin]) > 7 * n * 0.6
        )  # different places, where there is room
