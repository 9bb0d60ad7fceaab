"""l1, l2, psnr and ssim of a sample's output against the float model's, by plain loops over numbers."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from disttune.config.errors import TrialError
from disttune.evaluate.metrics.l1 import l1
from disttune.evaluate.metrics.l2 import l2
from disttune.evaluate.metrics.psnr import psnr
from disttune.evaluate.metrics.ssim import ssim

NUMBERS = st.floats(-100, 100, width=32)
PAIRS = st.lists(st.tuples(NUMBERS, NUMBERS), min_size=2, max_size=6)


def plain(pairs) -> dict[str, float]:
    x, y = ([float(p[i]) for p in pairs] for i in (0, 1))
    n = len(pairs)
    squares = sum((a - b) ** 2 for a, b in pairs)
    peak, rmse = max(map(abs, y)), math.sqrt(squares / n)
    span = max(y) - min(y) or peak or float(np.finfo(np.float32).tiny)
    mx, my = sum(x) / n, sum(y) / n
    vx, vy = (sum((a - m) ** 2 for a in v) / n for v, m in ((x, mx), (y, my)))
    both = sum((a - mx) * (b - my) for a, b in zip(x, y, strict=True)) / n
    c1, c2 = (0.01 * span) ** 2, (0.03 * span) ** 2
    if rmse == 0:
        decibels = 100.0
    else:
        decibels = -100.0 if peak == 0 else max(-100.0, min(100.0, 20 * math.log10(peak / rmse)))
    return {
        "l1": sum(abs(a - b) for a, b in pairs) / n,
        "l2": math.sqrt(squares),
        "psnr": decibels,
        "ssim": (2 * mx * my + c1) * (2 * both + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2)),
    }


@settings(deadline=None, max_examples=80)
@given(PAIRS.filter(lambda pairs: all(p == (0, 0) or max(map(abs, p)) > 1e-3 for p in pairs)))
def test_scores_are_those_of_plain_loops(pairs):
    x, y = (np.array([[p[i] for p in pairs]], np.float32) for i in (0, 1))
    expected = plain(pairs)
    for name, metric in {"l1": l1, "l2": l2, "psnr": psnr, "ssim": ssim}.items():
        assert metric([x], y)[0] == pytest.approx(expected[name], rel=1e-6, abs=1e-9), name


@pytest.mark.parametrize(("metric", "best"), [(l1, 0), (l2, 0), (psnr, 100), (ssim, 1)])
@pytest.mark.parametrize("value", [0.0, 3.0])
def test_equal_outputs_have_the_best_score_even_where_they_are_constant(metric, best, value):
    outputs = np.full((2, 3, 4), value, np.float32)
    assert metric([outputs], outputs.copy()).tolist() == [best, best]


@pytest.mark.parametrize("metric", [l1, l2, psnr, ssim])
def test_a_nan_stays_one_and_other_shapes_are_refused(metric):
    assert np.isnan(metric([np.array([[1.0, np.nan]])], np.array([[1.0, 2.0]])))[0]
    with pytest.raises(TrialError, match=f"{metric.__name__} needs a target of the output's shape"):
        metric([np.ones((2, 3))], np.ones((2, 4)))
