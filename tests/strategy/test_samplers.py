"""Samplers against plain loops over Optuna, and what holds for all that are asked and told in batches."""

import random
import warnings
from statistics import mean, median

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from disttune.config.errors import InputError
from disttune.schedule.events import Commit, Note
from disttune.schedule.exit_policy import ExitPolicy
from disttune.schedule.known_outcomes import KnownOutcomes
from disttune.schedule.simulation import SimulatedJob, simulate
from disttune.schedule.strategy_check import check_strategy
from disttune.schedule.synthetic import additive_landscape, synthetic_space, synthetic_transformer
from disttune.space.dimensions import op_dimensions, op_type_dimensions
from disttune.strategy.cmaes import Cmaes
from disttune.strategy.nsgaii import Nsgaii
from disttune.strategy.qmc import Qmc
from disttune.strategy.random import Random
from disttune.strategy.sigopt import Sigopt
from disttune.strategy.tpe import Tpe
from tests.simulated import small_space

optuna = pytest.importorskip("optuna")
SUMMARY = synthetic_transformer(2)
SPACE = synthetic_space(SUMMARY, "auto")
GOAL = 0.95


def cmaes():
    pytest.importorskip("cmaes")
    return Cmaes()


def job(strategy, seed=0, max_trials=60, goal=GOAL, **options):
    policy = ExitPolicy("budget", max_trials=max_trials)
    given = {"metric": additive_landscape(seed), "space": SPACE, "summary": SUMMARY, "seed": seed}
    return SimulatedJob(strategy, goal=goal, policy=policy, **(given | options))


def plain(sampler, values, seed, ordered=False, n_values=1, max_trials=60):
    """Points that a loop over Optuna's ask and tell measures, 16 at a time, each once."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=sampler, directions=["minimize"] * n_values)
    grid, metric = op_dimensions(SPACE), additive_landscape(seed)
    distributions = {}
    for name, n in zip(grid.names, grid.sizes, strict=True):
        categories = optuna.distributions.CategoricalDistribution(range(n))
        distributions[name] = optuna.distributions.IntDistribution(0, n - 1) if ordered else categories
    measured = []
    while True:
        asked = [study.ask(distributions) for _ in range(16)]
        for trial in asked:
            candidate = grid.candidate([trial.params[name] for name in grid.names])
            if candidate not in measured:
                measured.append(candidate)
                if len(measured) == max_trials:
                    return [c.digest for c in measured]
        for trial in asked:
            candidate = grid.candidate([trial.params[name] for name in grid.names])
            trial.set_user_attr("constraints", [max(0.0, GOAL - metric(candidate)) / GOAL])
            study.tell(trial, values(metric(candidate)))


def plain_cmaes(seed, max_trials=60):
    """Points that a loop over the optimizer measures, 16 a generation, each once."""
    from cmaes import CMAwM

    grid, metric = op_dimensions(SPACE), additive_landscape(seed)
    n = len(grid.sizes)
    last = np.array(grid.sizes) - 1
    optimizer = CMAwM(
        mean=np.full(n, 0.5), sigma=0.3, bounds=np.array([[0.0, 1.0]] * n), steps=1 / last, seed=seed,
        population_size=16,
    )  # fmt: skip
    measured = []
    while True:
        solutions = []
        for _ in range(16):
            found, told = optimizer.ask()
            candidate = grid.candidate([round(x) for x in found * last])
            solutions.append((told, tpe_loss(metric(candidate))))
            if candidate not in measured:
                measured.append(candidate)
                if len(measured) == max_trials:
                    return [c.digest for c in measured]
        optimizer.tell(solutions)


SIZE = 100 / SUMMARY.size_bytes  # every simulated model has 100 bytes


def tpe_loss(metric):
    return 100 * max(0.0, GOAL - metric) / GOAL + SIZE


def tpe(seed, **options):
    return optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True, constant_liar=True, **options)


PLAIN = {
    "tpe": (Tpe, lambda s: plain(tpe(s), tpe_loss, s)),
    "sigopt": (
        Sigopt,
        lambda s: plain(tpe(s, constraints_func=lambda t: t.user_attrs["constraints"]), lambda m: SIZE, s),
    ),
    "qmc": (
        Qmc,
        lambda s: plain(
            optuna.samplers.QMCSampler(
                scramble=True, seed=s, independent_sampler=optuna.samplers.RandomSampler(seed=s)
            ),
            tpe_loss, s, ordered=True,
        ),
    ),
    "nsgaii": (
        Nsgaii,
        lambda s: plain(
            optuna.samplers.NSGAIISampler(population_size=8, seed=s), lambda m: (-m, SIZE), s, n_values=2
        ),
    ),
    "cmaes": (
        cmaes,
        lambda s: plain_cmaes(s),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("seed", [0, 1])
def test_the_proposals_are_those_of_a_plain_loop(name, seed):
    strategy, expected = PLAIN[name]
    ended = simulate(job(strategy, seed), ranks=5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert [row[2] for row in ended.table] == expected(seed)


@pytest.mark.parametrize("strategy", [Tpe, cmaes, Qmc, Nsgaii, Sigopt])
def test_what_holds_for_every_strategy_holds(strategy):
    check_strategy(strategy, ranks=(2, 1000), seeds=(0,))


@pytest.mark.parametrize("strategy", [Tpe, cmaes, Qmc, Nsgaii, Sigopt])
def test_no_point_is_measured_twice_and_the_end_is_told(strategy):
    ended = simulate(job(strategy, space=small_space(4), summary=None, metric=lambda c: 0.5))
    digests = [row[2] for row in ended.table]
    assert len(set(digests)) == len(digests) <= 16
    (note,) = [c.text for c in ended.commands if isinstance(c, Note)]
    assert "all 16 points" in note if len(digests) == 16 else "20 batches in a row" in note


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), ranks=st.integers(2, 64), batch_size=st.integers(1, 20))
def test_batches_are_as_large_whatever_the_number_of_ranks(seed, ranks, batch_size):
    tried = job(Tpe, seed, max_trials=3 * batch_size, batch_size=batch_size)
    tried.duration_s = lambda item, rank: random.Random(f"{seed}{rank}{item}").uniform(0.1, 3)
    many, one = simulate(tried, ranks), simulate(tried, 1)
    assert many.table == one.table
    stages = [row[1] for row in one.table]
    assert all(stages.count(stage) <= batch_size for stage in stages)


def test_trials_that_fail_are_no_part_of_the_estimate():
    def failing(candidate):
        raise ValueError("no")

    assert len(simulate(job(Tpe, metric=failing)).table) == 60


@pytest.mark.parametrize("n_ops", [1, 2])
def test_cmaes_takes_a_grid_of_few_dimensions(n_ops):
    ended = simulate(job(cmaes, space=small_space(n_ops), summary=None, metric=lambda c: 0.5))
    assert len({row[2] for row in ended.table}) == 2**n_ops


def test_cmaes_survives_trials_that_fail():
    def failing(candidate):
        if candidate.exceptions:
            raise ValueError("no")
        return 0.5

    assert len(simulate(job(cmaes, metric=failing)).table) == 60


def test_cmaes_beats_random_at_equal_trials():
    """Mean of landscapes whose best is 1.0; see benchmarks/bench_samplers.py for 20 of them."""

    def best(strategy, seed):
        return max(row[4][0] for row in simulate(job(strategy, seed, 120, goal=2.0), check=False).table)

    seeds = range(12)
    assert mean(best(cmaes, s) for s in seeds) > mean(best(Random, s) for s in seeds)


def test_an_op_type_is_one_dimension_when_there_are_many_ops():
    space = small_space(31)
    ended = simulate(job(Tpe, space=space, summary=None, metric=lambda c: 0.5))
    assert op_type_dimensions(space).size == 2
    assert len(ended.table) == 2
    ended = simulate(job(lambda: Tpe(level="op"), space=space, summary=None, metric=lambda c: 0.5))
    assert len(ended.table) == 60


def test_a_level_that_is_none_is_refused():
    with pytest.raises(InputError, match='level must be "op" or "op_type"'):
        Tpe(level="layer")


def test_a_resumed_sampler_goes_on_from_what_was_measured_even_if_it_would_propose_otherwise():
    other = simulate(job(Tpe, seed=1, max_trials=16))
    rows = [c.trial for c in other.commands if isinstance(c, Commit)]
    proposals = {(0, i): row.candidate for i, row in enumerate(rows)}
    resumed = simulate(job(Tpe, seed=2), recording=KnownOutcomes(other.known.outcomes, proposals))
    assert [row[2] for row in resumed.table[:16]] == [row[2] for row in other.table]
    assert len({row[2] for row in resumed.table}) == 60


def test_tpe_beats_random_at_equal_trials():
    """Median of landscapes whose best is 1.0; see benchmarks/bench_samplers.py for 20 of them."""

    def best(strategy, seed):
        return max(row[4][0] for row in simulate(job(strategy, seed, 100, goal=2.0), check=False).table)

    seeds = range(12)
    assert median(best(Tpe, s) for s in seeds) > median(best(Random, s) for s in seeds)
