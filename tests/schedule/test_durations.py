"""Expected durations: learnt from candidates of a kind, used for the order of work and for nothing else."""

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from disttune.schedule.durations import Durations
from disttune.schedule.events import Assign
from disttune.schedule.exit_policy import ExitPolicy
from disttune.space.space import Space
from disttune.space.summary import ModelSummary, OpSummary
from disttune.strategy.stage import Stage
from tests.simulated import OPTIONS, PER_CHANNEL, Listed, SimulatedJob, simulate

N_OPS = 60
TYPES = ("Conv", "MatMul", "Add")
MACS = [random.Random(i).randint(1, 1000) for i in range(N_OPS)]
SUMMARY = ModelSummary(
    tuple(
        OpSummary(f"op_{i}", TYPES[i % 3], (f"t{i}",), (f"t{i + 1}",), n_macs=MACS[i]) for i in range(N_OPS)
    ),
    ("t0",), (f"t{N_OPS}",), 17, 1000, 250,
)  # fmt: skip
SPACE = Space({op.name: OPTIONS for op in SUMMARY.ops}, {op.name: op.op_type for op in SUMMARY.ops})
SINGLES = [SPACE.default_candidate().in_float(op) for op in SPACE.ops]
SECONDS = {c.digest: 1.0 + TYPES.index(SUMMARY.ops[i].op_type) for i, c in enumerate(SINGLES)}
BUDGET = ExitPolicy("budget", max_trials=1000)


def job(policy=BUDGET, items=SINGLES, seconds=SECONDS):
    return SimulatedJob(
        lambda: Listed(Stage("one by one", items)),
        SPACE,
        lambda candidate: 0.5,
        goal=2.0,
        policy=policy,
        duration_s=lambda item, rank: seconds[item.digest],
        summary=SUMMARY,
    )


def started(simulation):
    """Trial numbers in the order in which they were handed out."""
    return [command.task for command in simulation.commands if isinstance(command, Assign)]


def test_the_longest_kinds_start_first_once_they_are_known():
    tasks = started(simulate(job(), 4))

    lengths = [SECONDS[SINGLES[task].digest] for task in tasks]
    assert set(lengths[:12]) == {1.0, 2.0, 3.0}  # all kinds are met early
    assert lengths[20:] == sorted(lengths[20:], reverse=True)
    assert sorted(tasks) == list(range(N_OPS))


def test_durations_that_go_with_the_work_are_learnt_as_a_line():
    durations = Durations(SUMMARY)
    convs = [i for i in range(N_OPS) if i % 3 == 0]
    for i in convs[:8]:
        durations.learn(SINGLES[i], 10.0 - 9.0 * MACS[i] / sum(MACS))

    order = sorted(convs, key=lambda i: durations.rank(SINGLES[i]))

    assert order == sorted(convs, key=lambda i: MACS[i])  # less work takes longer here


def test_a_kind_that_nothing_is_known_of_goes_first_its_greatest_work_first():
    durations = Durations(SUMMARY)
    durations.learn(SINGLES[0], 100.0)

    order = sorted(range(N_OPS), key=lambda i: durations.rank(SINGLES[i]))

    n_convs = N_OPS // 3
    assert order[:-n_convs] == sorted((i for i in range(N_OPS) if i % 3), key=lambda i: -MACS[i])


def test_recipes_and_rounding_algorithms_are_kinds_of_their_own():
    plain = SPACE.default_candidate()
    rounded = replace(OPTIONS[0], weight=replace(PER_CHANNEL, method="adaround"))
    learned = plain.with_configs(dict.fromkeys(SPACE.ops[1:], rounded))
    equalized = replace(plain, recipes=(("cross_layer_equalization", True),))
    durations = Durations(SUMMARY)
    for candidate, seconds in ((plain, 1.0), (learned, 9.0), (equalized, 3.0)):
        durations.learn(candidate, seconds)

    assert sorted([plain, equalized, learned], key=durations.rank) == [learned, equalized, plain]


@pytest.mark.parametrize(
    "policy",
    [
        ExitPolicy("goal", max_trials=1000),
        ExitPolicy("budget", max_trials=1000, timeout_s=1e6),
        ExitPolicy("budget", max_trials=1000, patience=1000),
        ExitPolicy("budget", max_trials=1000, find_n=1000),
    ],
)
def test_where_a_trial_can_end_the_search_they_start_in_order(policy):
    tasks = started(simulate(job(policy), 4))

    assert tasks == sorted(tasks)


def test_items_that_are_not_known_whole_start_in_order_until_all_are_drawn():
    tasks = started(simulate(job(items=_lazily()), 4))

    n_ahead = 2 * 4
    assert tasks[:-n_ahead] == sorted(tasks)[:-n_ahead]
    assert tasks != sorted(tasks)


def _lazily():
    return (candidate for candidate in SINGLES)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.floats(0.01, 9.0), min_size=N_OPS, max_size=N_OPS),
    st.integers(2, 64),
    st.dictionaries(st.integers(1, 63), st.floats(0.0, 9.0), max_size=3),
)
def test_the_order_of_work_changes_no_row(lengths, ranks, deaths):
    seconds = {candidate.digest: s for candidate, s in zip(SINGLES, lengths, strict=True)}
    lost = {rank: at_s for rank, at_s in deaths.items() if rank < ranks}

    assert simulate(job(seconds=seconds), ranks, lost).table == simulate(job(), 1).table


def test_no_worker_is_idle_while_something_waits():
    """Graham's bound for any list: the mean load and one longest task."""
    rng = random.Random(3)
    seconds = {candidate.digest: rng.uniform(0.1, 4.0) for candidate in SINGLES}
    for ranks in (2, 7, 16):
        bound = sum(seconds.values()) / ranks + max(seconds.values()) * (1 - 1 / ranks)
        assert simulate(job(seconds=seconds), ranks).time_s <= bound + 1e-9
