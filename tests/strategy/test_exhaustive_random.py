"""exhaustive and random against itertools."""

from collections import Counter
from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from disttune.schedule.exit_policy import ExitPolicy
from disttune.schedule.simulation import SimulatedJob, simulate
from disttune.space.candidate import Candidate
from disttune.strategy.exhaustive import Exhaustive
from disttune.strategy.random import Random, shuffled
from tests.simulated import small_space


def order_of(strategy, space, seed=0):
    job = SimulatedJob(
        strategy, space, lambda c: 0.5, policy=ExitPolicy("budget", max_trials=10**6), seed=seed
    )
    ended = simulate(job, 3)
    assert ended.finish.stop_reason == "space"
    return [row[2] for row in ended.table]


def all_of(space):
    return [
        Candidate.of(dict(zip(space.ops, chosen, strict=True))).digest
        for chosen in product(*space.options.values())
    ]


def test_exhaustive_goes_through_the_product_the_last_op_fastest():
    space = small_space(4)
    assert order_of(Exhaustive, space) == all_of(space)


def test_random_takes_each_candidate_once_in_an_order_of_the_seed():
    space = small_space(5)
    orders = [order_of(Random, space, seed) for seed in (0, 0, 1)]
    assert Counter(orders[0]) == Counter(all_of(space))
    assert orders[0] == orders[1] != orders[2]


@given(size=st.integers(1, 3000), seed=st.integers(0, 10**6))
def test_the_order_is_a_permutation_of_any_range(size, seed):
    assert sorted(shuffled(i, size, seed) for i in range(size)) == list(range(size))


def test_a_range_beyond_any_list_is_no_matter():
    size = 10**40
    drawn = [shuffled(i, size, 7) for i in range(1000)]
    assert len(set(drawn)) == 1000
    assert all(0 <= i < size for i in drawn)
