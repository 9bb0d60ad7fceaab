"""Default, exhaustive and random: which candidates, in which order."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from disttune.schedule.exit_policy import ExitPolicy
from disttune.space.candidate import Candidate
from disttune.strategy.default import Default
from disttune.strategy.exhaustive import Exhaustive
from disttune.strategy.random import Random, shuffled
from tests.simulated import SimulatedJob, simulate, small_space
from tests.strategy.tunings import proposals, stages_of, tuning_of

BUDGET = ExitPolicy("budget", max_trials=1000)


def by_hand(tuning) -> list[Candidate]:
    """The product of all ops' options, the last op fastest, written with itertools."""
    options = tuning.space.options
    return [
        Candidate.of(dict(zip(options, row, strict=True))) for row in itertools.product(*options.values())
    ]


# Default


@pytest.mark.parametrize("approach", ["static", "dynamic", "auto"])
def test_default_proposes_the_first_option_of_every_op_and_ends(approach: str):
    tuning = tuning_of("Conv", "Relu", "MatMul", approach=approach)

    assert proposals(Default(), tuning) == [
        Candidate.of({op: options[0] for op, options in tuning.space.options.items()})
    ]


def test_default_with_approach_auto_is_static_where_it_can_be():
    (candidate,) = proposals(Default(), tuning_of("Conv", "MatMul", approach="auto"))

    assert {config.approach for config in candidate.configs().values()} == {"static"}


# Exhaustive


@pytest.mark.parametrize(
    ("op_types", "quantization"),
    [
        (("Conv",), {}),
        (("Conv", "Relu", "MatMul"), {}),
        (("MatMul", "Gemm"), {"approach": "auto"}),
        (("Conv", "Add"), {"placement": "all"}),
    ],
)
def test_exhaustive_gives_the_product_with_the_last_op_fastest(op_types, quantization):
    tuning = tuning_of(*op_types, **quantization)

    assert proposals(Exhaustive(), tuning) == by_hand(tuning)


def test_exhaustive_keeps_the_order_of_the_users_list():
    order = ["per_tensor", "per_channel"]
    options = {"Conv": {"weight": {"granularity": order}, "activation": {"method": ["minmax"]}}}

    candidates = proposals(Exhaustive(), tuning_of("Conv", "Conv", op_types=options))

    seen = [[c.config_of(op).weight.granularity for op in ("Conv_0", "Conv_1")] for c in candidates]
    assert seen == [list(pair) for pair in itertools.product(order, order)]


def test_exhaustive_draws_a_huge_space_lazily():
    tuning = tuning_of(*["Conv"] * 60)

    candidates = proposals(Exhaustive(), tuning, limit=3)

    assert tuning.space.op_wise().size > 10**30
    assert [c.quantized_ops == tuning.space.ops for c in candidates] == [True] * 3


def test_the_space_used_up_is_the_reason_of_the_end():
    job = SimulatedJob(Exhaustive, small_space(3), lambda c: 0.0, policy=BUDGET)

    simulation = simulate(job, ranks=3)

    assert (len(simulation.table), simulation.finish.stop_reason) == (8, "space")


# Random


@given(st.integers(1, 700), st.integers(0, 2**64))
@settings(max_examples=60, deadline=None)
def test_shuffled_is_a_permutation(size: int, seed: int):
    assert sorted(shuffled(i, size, seed) for i in range(size)) == list(range(size))


@pytest.mark.parametrize("size", [*range(1, 34), 63, 64, 65, 255, 256, 257, 1000, 4097])
def test_shuffled_is_a_permutation_at_every_edge_of_a_power_of_two(size: int):
    assert {shuffled(i, size, 7) for i in range(size)} == set(range(size))


def test_shuffled_of_a_size_that_no_machine_could_list():
    size = 10**40

    drawn = [shuffled(i, size, 3) for i in range(500)]

    assert len(set(drawn)) == 500
    assert all(0 <= i < size for i in drawn)
    assert max(drawn) > size // 2 > min(drawn)  # spread over the range


def test_shuffled_depends_on_nothing_but_index_size_and_seed():
    assert [shuffled(i, 10, 0) for i in range(10)] == [shuffled(i, 10, 0) for i in range(10)]
    assert len({tuple(shuffled(i, 100, seed) for i in range(100)) for seed in range(20)}) == 20


def test_shuffled_puts_no_index_first_more_often_than_others():
    firsts = [shuffled(0, 10, seed) for seed in range(2000)]

    # 200 are expected of each; 5 standard deviations are 67
    assert all(abs(firsts.count(i) - 200) < 67 for i in range(10))


def test_random_proposes_every_candidate_once_in_another_order_for_each_seed():
    orders = [proposals(Random(), tuning_of("Conv", "MatMul", seed=seed)) for seed in range(3)]

    exhaustive = proposals(Exhaustive(), tuning_of("Conv", "MatMul"))
    assert [sorted(c.digest for c in order) for order in orders] == [sorted(c.digest for c in exhaustive)] * 3
    assert len({tuple(c.digest for c in order) for order in (*orders, exhaustive)}) == 4


def test_random_of_a_huge_space_repeats_nothing():
    tuning = tuning_of(*["Conv"] * 60)

    assert len({c.digest for c in proposals(Random(), tuning, limit=200)}) == 200


@pytest.mark.parametrize("ranks", [2, 9])
def test_random_gives_the_same_table_on_any_number_of_ranks(ranks: int):
    job = SimulatedJob(Random, small_space(5), lambda c: 0.5, policy=ExitPolicy("budget", 20), seed=11)

    assert simulate(job, ranks).table == simulate(job, 1).table


@pytest.mark.parametrize("strategy", [Default(), Exhaustive(), Random()])
def test_stages_ask_for_the_goal_alone_and_a_met_goal_ends_them(strategy):
    (stage,) = stages_of(strategy, tuning_of("Conv"))

    assert (stage.needs, stage.goal_stops) == ("goal", True)
