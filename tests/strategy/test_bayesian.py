"""bayesian: expected improvement recomputed from the textbook formulas, and what holds for it."""

import math
import random
from statistics import median

import pytest

from disttune.schedule.events import Note
from disttune.schedule.exit_policy import ExitPolicy
from disttune.schedule.simulation import SimulatedJob, simulate
from disttune.schedule.strategy_check import check_strategy
from disttune.schedule.synthetic import (
    additive_landscape,
    synthetic_cnn,
    synthetic_space,
    synthetic_transformer,
)
from disttune.space.dimensions import op_dimensions
from disttune.strategy.random import Random
from tests.simulated import small_space

np = pytest.importorskip("numpy")
pytest.importorskip("sklearn")

from disttune.strategy.bayesian import Bayesian, next_points  # noqa: E402

SUMMARY = synthetic_cnn(4)
SPACE = synthetic_space(SUMMARY)


def job(strategy=Bayesian, seed=0, max_trials=42, **options):
    policy = ExitPolicy("budget", max_trials=max_trials)
    given = {
        "metric": additive_landscape(seed),
        "space": SPACE,
        "summary": SUMMARY,
        "goal": 2.0,
        "seed": seed,
    }
    return SimulatedJob(strategy, policy=policy, **(given | options))


def matern(a, b, length):
    """Matern covariance of smoothness 5/2 (Rasmussen and Williams 2006, eq. 4.17)."""
    distance = math.sqrt(5) * math.dist(a, b) / length
    return (1 + distance + distance**2 / 3) * math.exp(-distance)


def expected_improvements(x, y, pool, length, noise):
    """By the posterior of a Gaussian process on normalised targets (ibid., eqs. 2.25 and 2.26)."""
    mean, scale = np.mean(y), np.std(y) or 1.0
    z = (np.asarray(y) - mean) / scale
    inverse = np.linalg.inv([[matern(a, b, length) + (noise if i == j else 0) for j, b in enumerate(x)]
                             for i, a in enumerate(x)])  # fmt: skip
    improvements = []
    for point in pool:
        k = np.array([matern(point, a, length) for a in x])
        mu = k @ inverse @ z
        sigma = math.sqrt(max(1 + noise - k @ inverse @ k, 1e-24))
        u = (mu - max(z)) / sigma
        cdf, pdf = 0.5 * (1 + math.erf(u / math.sqrt(2))), math.exp(-u * u / 2) / math.sqrt(2 * math.pi)
        improvements.append(sigma * (u * cdf + pdf))
    return np.array(improvements)


def one_hot(grid, point):
    """Two different options of a dimension are at distance 1."""
    return [math.sqrt(0.5) * (o == c) for n, c in zip(grid.sizes, point, strict=True) for o in range(n)]


@pytest.mark.parametrize("seed", range(4))
def test_each_point_of_a_batch_has_the_greatest_expected_improvement(seed, monkeypatch):
    import disttune.strategy.bayesian as module

    kernels = []
    fitted = module.fitted
    monkeypatch.setattr(module, "fitted", lambda x, y: kernels.append(fitted(x, y)) or kernels[-1])
    grid, rng = op_dimensions(SPACE), random.Random(seed)
    metric = additive_landscape(seed)
    points = [grid.point(i) for i in rng.sample(range(grid.size), 12)]
    scores = {p: metric(grid.candidate(p)) for p in points}
    chosen = next_points(grid, scores, 4, random.Random(0))
    length, noise = kernels[0].kernel_.k1.length_scale, kernels[0].kernel_.k2.noise_level
    x, y = [one_hot(grid, p) for p in scores], [*scores.values()]
    for point in chosen:  # all points of the grid are looked at: it has 1,024
        pool = [p for i in range(grid.size) if (p := grid.point(i)) not in scores and p not in chosen] + [
            point
        ]
        improvements = expected_improvements(x, y, [one_hot(grid, p) for p in pool], length, noise)
        assert improvements[-1] >= improvements.max() * (1 - 1e-6)
        x.append(one_hot(grid, point))
        y.append(max(scores.values()))  # the constant lie


def test_random_points_come_first_then_batches():
    stages = [row[1] for row in simulate(job()).table]
    assert (
        stages == ["bayesian, random points"] * 10 + ["bayesian, batch 1"] * 16 + ["bayesian, batch 2"] * 16
    )


def test_no_point_comes_twice_and_the_search_ends_with_the_grid():
    ended = simulate(job(space=small_space(5), summary=None, max_trials=100), ranks=3)
    digests = [row[2] for row in ended.table]
    assert len(digests) == len(set(digests)) == 32
    assert ended.finish.stop_reason == "space"
    assert [c.text for c in ended.commands if isinstance(c, Note)] == [
        "bayesian: all 32 points of the grid are measured"
    ]


def test_a_grid_too_large_to_look_at_is_sampled():
    ended = simulate(job(space=small_space(20), summary=None, max_trials=30))
    assert len({row[2] for row in ended.table}) == 30


def test_the_direction_of_the_metric_is_respected():
    upwards = simulate(job())
    metric = additive_landscape(0)
    downwards = simulate(job(metric=lambda c: -metric(c), goal=-2.0, higher_is_better=False))
    assert [row[2] for row in downwards.table] == [row[2] for row in upwards.table]


def test_what_holds_for_every_strategy_holds():
    check_strategy(Bayesian, ranks=(2, 1000), seeds=(0,), max_trials=20)


def test_bayesian_beats_random_at_equal_trials():
    """Median of landscapes whose best is 1.0; see benchmarks/bench_samplers.py for 20 of them."""

    summary = synthetic_transformer(2)
    given = {"summary": summary, "space": synthetic_space(summary)}

    def best(strategy, seed):
        return max(row[4][0] for row in simulate(job(strategy, seed, **given), check=False).table)

    seeds = range(7)
    assert median(best(Bayesian, s) for s in seeds) > median(best(Random, s) for s in seeds)
