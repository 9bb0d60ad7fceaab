"""conservative, basic and auto against plain renderings of their definitions, on any number of workers."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from disttune.schedule.events import Assign, Cancel, Commit, Note, Settle, Skip
from disttune.schedule.exit_policy import ExitPolicy
from disttune.schedule.simulation import SimulatedJob, simulate
from disttune.schedule.synthetic import additive_landscape, synthetic_cnn, synthetic_space
from disttune.space.space import Space
from disttune.strategy.auto import Auto
from disttune.strategy.basic import Basic
from disttune.strategy.conservative import Conservative
from tests.simulated import OPTIONS
from tests.strategy import plain
from tests.strategy.drawn import drawn
from tests.strategy.plain import Plain, best_row, quantized, table

RENDERINGS = {
    "conservative": (Conservative, plain.conservative, True),
    "basic": (Basic, plain.basic, False),
    "basic exact": (lambda: Basic(exact=True), lambda p: plain.basic(p, exact=True), False),
    "auto": (Auto, plain.auto, True),
    "auto without presets": (lambda: Auto(presets=False), lambda p: plain.auto(p, presets=False), True),
}
SEEDS = st.integers(0, 10**6)


def job_of(name, seed, **options):
    job = drawn(seed)
    return job, job.job(
        RENDERINGS[name][0], probe=lambda p: plain.error_of(job, p.arguments["op"]), **options
    )


@pytest.mark.parametrize("name", RENDERINGS)
@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, stop_at=st.sampled_from(["goal", "budget"]))
def test_the_proposals_are_those_of_the_plain_rendering(name, seed, stop_at):
    job, simulated = job_of(name, seed, stop_at=stop_at)
    expected = Plain(job, stop_at).run(RENDERINGS[name][1])
    ended = simulate(simulated)
    assert table(ended) == expected.table()
    preference = quantized(job) if RENDERINGS[name][2] else None
    best = best_row([r for r in expected.rows if r.first is None], job.goal, preference)
    assert ended.best == (best.number if best else None)
    if expected.reason != "strategy":
        assert ended.finish.stop_reason == expected.reason


@pytest.mark.parametrize("name", ["conservative", "basic", "auto"])
@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, ranks=st.integers(2, 64), data=st.data())
def test_the_table_is_the_same_on_any_number_of_workers_and_with_deaths(name, seed, ranks, data):
    _, simulated = job_of(name, seed)
    dying = data.draw(st.sets(st.integers(1, ranks - 1), max_size=2))
    lost = {rank: data.draw(st.floats(0.1, 20)) for rank in dying}
    assert simulate(simulated, ranks, lost, nodes=3).table == simulate(simulated, 1).table


def still_running(commands) -> dict[int, int]:
    """Rank to task of what was handed out and neither settled nor taken back."""
    running: dict[int, int] = {}
    for command in commands:
        match command:
            case Assign():
                running[command.rank] = command.task
            case Settle():
                running = {r: t for r, t in running.items() if t != command.task}
            case Skip() | Cancel():
                running.pop(command.rank, None)
            case _:
                pass
    return running


@pytest.fixture(scope="module")
def many_stages():
    _, simulated = job_of("basic exact", 116, stop_at="budget")
    whole = simulate(simulated, 4)
    assert len({row[1] for row in whole.table}) >= 8, "the job should have many stages"
    return simulated, whole


def test_a_budget_that_ends_inside_any_stage_leaves_the_best_so_far_and_nothing_running(many_stages):
    simulated, whole = many_stages
    n_distinct = sum(row[7] is None for row in whole.table)
    for max_trials in range(1, n_distinct):
        simulated.policy = ExitPolicy("budget", max_trials=max_trials)
        ended = simulate(simulated, 4)
        assert ended.finish.stop_reason == "max_trials"
        assert ended.table == whole.table[: len(ended.table)]
        assert (ended.best is None) == all(row[4] is None for row in ended.table)
        assert still_running(ended.commands) == {}


def test_a_timeout_inside_any_stage_leaves_the_best_so_far_and_nothing_running(many_stages):
    simulated, whole = many_stages
    times = random.Random(1).sample(range(1, int(whole.time_s)), 15)
    for timeout_s in times:
        simulated.policy = ExitPolicy("budget", max_trials=60, timeout_s=timeout_s)
        ended = simulate(simulated, 4)
        assert ended.finish.stop_reason == "timeout"
        assert ended.time_s <= timeout_s
        finished = [row for row in ended.table if not row[10]]
        assert finished == [row for row in whole.table if row[0] in {r[0] for r in finished}]
        assert (ended.best is None) == all(row[4] is None for row in finished)
        assert still_running(ended.commands) == {}


def test_calibration_sizes_repeat_basic_for_each():
    space = synthetic_space(synthetic_cnn())
    job = SimulatedJob(
        lambda: Basic(exact=True),
        space,
        lambda c: additive_landscape(3)(c),
        goal=2.0,
        policy=ExitPolicy(max_trials=1000),
        summary=synthetic_cnn(),
        calibration_samples=(16, 64),
    )
    rows = [c.trial for c in simulate(job, 5).commands if isinstance(c, Commit)]
    half = len(rows) // 2
    first, second = rows[:half], rows[half:]
    assert [f"{row.stage}, 64 samples" for row in first] == [row.stage for row in second]
    assert [row.candidate.configs() for row in first] == [row.candidate.configs() for row in second]
    assert {dict(row.candidate.recipes).get("calibration_samples") for row in first} == {None}
    assert {dict(row.candidate.recipes).get("calibration_samples") for row in second} == {64}


def test_what_is_skipped_is_told_with_the_reason():
    names = ["MatMul_0", "Gemm_1"]
    one_option = Space(dict.fromkeys(names, OPTIONS[:1]), {n: n.partition("_")[0] for n in names})
    ended = simulate(SimulatedJob(Basic, one_option, lambda c: 0.5, policy=ExitPolicy(max_trials=3)))
    assert [c.text for c in ended.commands if isinstance(c, Note)] == [
        "all recipes: skipped, the job leaves none open that changes this model",
        "op-type-wise: skipped, max_trials = 3 leaves no trial for it",
        "blocks in float: skipped, no transformer block is quantized",
        "ops one by one: 1 of 2, half of the trials left; those with the greatest error "
        "(strategy_kwargs.exact takes all)",
        "error of each op's output: 2 of 2 probes failed; their ops come last",
    ]


def test_the_default_that_meets_the_goal_ends_auto():
    job = drawn(3)
    simulated = job.job(Auto)
    simulated.goal = -10.0
    simulated.metric = lambda c: 1.0
    ended = simulate(simulated, 8)
    assert [(row[0], row[1]) for row in ended.table] == [(0, "default")]
    assert (ended.finish.status, ended.finish.stop_reason) == ("goal_met", "goal")
