"""amp: the knapsack against listing everything, the search against the cheapest of all mixes."""

import random
from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from disttune.config.errors import InputError
from disttune.schedule.events import Commit, Note
from disttune.schedule.exit_policy import ExitPolicy
from disttune.schedule.simulation import SimulatedJob, simulate
from disttune.schedule.strategy_check import check_strategy
from disttune.schedule.synthetic import synthetic_cnn, synthetic_space
from disttune.space.cost import CostModel
from disttune.strategy import Tuning
from disttune.strategy.amp import Amp
from disttune.strategy.knapsack import Choice, cost_of, neighbours, noise_of, pareto_path
from disttune.strategy.sensitivity import group_choices
from tests.strategy.tunings import GOAL, tuning_of

GROUPS = st.lists(
    st.lists(st.builds(Choice, st.integers(1, 50), st.integers(0, 50)), min_size=1, max_size=4),
    min_size=1,
    max_size=4,
)


@given(choices=GROUPS)
def test_no_mix_beats_a_point_of_the_path_in_both_cost_and_noise(choices):
    path = pareto_path(choices)
    every = [(cost_of(choices, a), noise_of(choices, a)) for a in product(*(range(len(g)) for g in choices))]
    for point in path:
        cost, noise = cost_of(choices, point), noise_of(choices, point)
        assert not any(c <= cost and n <= noise and (c, n) != (cost, noise) for c, n in every)
    assert noise_of(choices, path[0]) == min(n for _, n in every)
    assert cost_of(choices, path[-1]) == min(c for c, _ in every)


def test_of_few_groups_every_other_mix_is_a_neighbour_of_many_those_two_changes_away():
    pair = [Choice(1.0, 0.1), Choice(2.0, 0.0)]
    assert len(set(neighbours([pair] * 6, (0,) * 6))) == 63
    changed = list(neighbours([pair] * 70, (0,) * 70))
    assert len(changed) == len(set(changed)) == 70 + 64 * 63 // 2


def landscape(seed, n_groups, noise=0.0, jumps=False):
    """A metric of 1 less a loss of each op by its bits; with noise, or with jumps where two losses meet."""
    rng = random.Random(seed)
    loss = {}
    for g in range(n_groups):
        eight = rng.uniform(0, 0.01)
        for bits, factor in (("int8", 1.0), ("int4", rng.uniform(1.0, 8.0))):
            loss[g, bits] = eight * factor

    def losses(candidate):
        convs = [op for op in candidate.ops if op.startswith("conv")]
        return [
            loss[g, c.weight.dtype] if (c := candidate.config_of(op)).quantized else 0.0
            for g, op in enumerate(convs)
        ]

    def metric(candidate):
        values = losses(candidate)
        wiggle = random.Random(f"{seed}{candidate.digest}").uniform(-noise, noise)
        jump = -0.01 if jumps and sum(v > 0.02 for v in values) % 2 else 0.0
        return 1 - sum(values) - wiggle - jump

    return metric, losses


def conv_job(seed, noise=0.0, jumps=False, n_convs=6, goal=0.95, **options):
    cnn = synthetic_cnn(n_convs)
    space = synthetic_space(cnn)
    kept = {op: o for op, o in space.options.items() if op.startswith("conv")}
    space = replace(space, options=kept, float_sets=(frozenset(),), float_recipes={}, presets={})
    metric, losses = landscape(seed, n_convs, noise, jumps)
    return SimulatedJob(
        lambda: Amp(candidates=["W4A8", "W8A8"], **options),
        space,
        metric,
        goal,
        ExitPolicy("goal", max_trials=60),
        summary=cnn,
        probe=lambda probe: sum(losses(probe.candidate)),
        duration_s=lambda item, rank: random.Random(f"{seed}{rank}{item}").uniform(0.1, 3),
    )


def cheapest(job, precisions):
    """The least cost of all mixes that meet the goal, by listing them."""
    tuning = Tuning(job.space, job.summary, GOAL)
    base = job.space.default_candidate()
    costs = CostModel(job.summary, base.ops)
    groups = group_choices(tuning, job.space, base, precisions, costs)
    found = []
    for mix in product(*groups):
        candidate = base.with_configs({op: c for choice in mix for op, c in choice.configs.items()})
        if candidate.quantized_ops and job.metric(candidate) >= job.goal:
            found.append(costs.total(candidate))
    return min(found, default=None), costs


def rows(ended):
    return [command.trial for command in ended.commands if isinstance(command, Commit)]


def best_cost(job, ended, costs):
    best = rows(ended)[ended.best]
    return costs.total(best.candidate) if best.meets_goal else None


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), goal=st.sampled_from([0.93, 0.95, 0.97, 0.99]))
def test_six_groups_come_within_two_percent_of_the_cheapest_mix(seed, goal):
    job = conv_job(seed, goal=goal)
    least, costs = cheapest(job, ["W4A8", "W8A8"])
    found = best_cost(job, simulate(job), costs)
    assert found is not None
    assert found <= least * 1.02


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), jumps=st.booleans())
def test_what_a_landscape_that_is_not_monotone_gives_was_measured_and_meets_the_goal(seed, jumps):
    job = conv_job(seed, noise=0.004, jumps=jumps)
    least, costs = cheapest(job, ["W4A8", "W8A8"])
    ended = simulate(job)
    found = best_cost(job, ended, costs)
    meeting = [costs.total(t.candidate) for t in rows(ended) if t.meets_goal]
    assert found == min(meeting)
    assert found <= least * 1.25


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6), ranks=st.sampled_from([2, 7, 1000]))
def test_the_table_is_that_of_one_rank(seed, ranks):
    job = conv_job(seed, noise=0.002)
    assert simulate(job, ranks, {1: 4.0}).table == simulate(job, 1).table


@pytest.mark.parametrize(
    "strategy",
    [Amp, lambda: Amp(["W4A8", "W8A8", "W8A16"], sensitivity="metric", cost="size")],
    ids=["as it is", "with options"],
)
def test_what_holds_for_every_strategy_holds(strategy):
    check_strategy(strategy)


def test_the_cheapest_precision_everywhere_ends_the_search_when_it_meets_the_goal():
    job = conv_job(1, goal=0.0)
    ended = simulate(job)
    stages = {t.stage for t in rows(ended)}
    assert stages == {"one precision everywhere"}
    assert all(c.weight.dtype == "int4" for c in rows(ended)[ended.best].candidate.configs().values())


def test_a_goal_out_of_reach_is_said_and_ends():
    ended = simulate(conv_job(3, goal=2.0))
    assert ended.finish.stop_reason == "strategy"
    assert any("no mix on the path meets the goal" in str(c) for c in ended.commands)


def test_a_precision_whose_probe_fails_is_left_out():
    job = conv_job(5)

    def probe(probe):
        if any(c.quantized and c.weight.dtype == "int4" for c in probe.candidate.configs().values()):
            raise ValueError("cannot be built")
        return 0.001

    ended = simulate(replace(job, probe=probe, goal=0.97))
    assert len(rows(ended)) > 1
    assert all(
        c.weight is None or c.weight.dtype == "int8"
        for t in rows(ended)
        for _, c in t.candidate.configs().items()
    )
    assert any("6 of 12 failed and are left out" in str(c) for c in ended.commands)


def test_many_groups_need_few_trials():
    job = conv_job(2, n_convs=80, goal=0.5)
    ended = simulate(job)
    assert rows(ended)[ended.best].meets_goal
    assert len(rows(ended)) <= 50


def test_a_precision_that_is_not_fused_is_warned_of():
    ended = simulate(conv_job(4))
    assert any(
        "warning: the target computes W4A8 in float between the codes" in str(c) for c in ended.commands
    )


def test_every_weight_is_rounded_by_the_method_asked_for():
    ended = simulate(conv_job(6, rounding="adaround:iterations=50"))
    weights = [c.weight for t in rows(ended) for c in t.candidate.configs().values() if c.weight]
    assert {(w.method, w.options) for w in weights} == {("adaround", (("iterations", 50),))}
    assert {w.dtype for w in weights} == {"int4", "int8"}


def test_a_model_without_weights_is_searched_too():
    tuning = tuning_of("Add", "Mul", placement="all")
    ended = simulate(
        SimulatedJob(Amp, tuning.space, lambda _: 1.0, summary=tuning.summary, probe=lambda _: 0.001)
    )
    assert set(rows(ended)[ended.best].candidate.quantized_ops) == {"Add_0", "Mul_1"}


def test_an_unknown_precision_or_option_is_refused_with_the_nearest():
    tuning = tuning_of("Conv")
    with pytest.raises(InputError, match=r'no precision "W8A9". Nearest: "W8A8"'):
        list(Amp(["W8A9"]).stages(tuning))
    with pytest.raises(InputError, match=r'no value "erorr". Nearest: "error"'):
        Amp(sensitivity="erorr")
    with pytest.raises(InputError, match="repairs must be a whole number of at least 0"):
        Amp(repairs=-1)


def test_what_was_measured_of_every_group_is_told_worst_first():
    job = conv_job(seed=3)
    scheduler_history = []

    def strategy():
        found = Amp()
        stages = found.stages
        found.stages = lambda tuning: (scheduler_history.append(tuning), stages(tuning))[1]
        return found

    simulate(replace(job, strategy=strategy))
    rows = scheduler_history[0].sensitivity
    assert {row.ops for row in rows} == {(f"conv_{i}",) for i in range(6)}
    assert [row.loss for row in rows] == sorted((row.loss for row in rows), reverse=True)


def plain_conversions(job, candidate):
    """Oracle: tensor by tensor."""
    makers = {name: op.name for op in job.summary.ops for name in op.outputs}
    found = 0
    for op in job.summary.ops:
        for name in op.inputs:
            maker = makers.get(name)
            if maker in candidate.ops and op.name in candidate.ops:
                pair = [candidate.config_of(o).quantized for o in (maker, op.name)]
                found += pair[0] != pair[1]
    return found


def chain_job(seed, **options):
    """Convolutions in a row, so that every change of precision is a conversion."""
    job = conv_job(seed, n_convs=8, goal=0.975, **options)
    ops = [op for op in job.summary.ops if op.name.startswith("conv")]
    ops = [replace(op, inputs=(f"t{i}", *op.inputs[1:]), outputs=(f"t{i + 1}",)) for i, op in enumerate(ops)]
    return replace(job, summary=replace(job.summary, ops=tuple(ops)))


@pytest.mark.parametrize("seed", range(6))
def test_phase_three_leaves_fewer_conversions_in_a_mix_that_meets_the_goal(seed):
    without, limited = (chain_job(seed, conversions=share) for share in (1.0, 0.5))
    before, after = (rows(ended)[ended.best] for ended in (simulate(without), simulate(limited)))
    n_before, n_after = (plain_conversions(limited, trial.candidate) for trial in (before, after))
    assert before.meets_goal
    assert after.meets_goal
    fell_short = any("no change of one group" in note for note in notes(simulate(limited)))
    assert n_after <= n_before / 2 or (fell_short and n_after <= n_before)


def test_phase_three_reaches_its_share_somewhere():
    shares = []
    for seed in range(6):
        job = chain_job(seed, conversions=0.5)
        least, most = (rows(e)[e.best] for e in (simulate(job), simulate(chain_job(seed))))
        n = plain_conversions(job, most.candidate)
        shares += [plain_conversions(job, least.candidate) / n] if n else []
    assert min(shares) <= 0.5


def notes(ended):
    return [command.text for command in ended.commands if isinstance(command, Note)]


@pytest.mark.parametrize("value", [-0.1, 1.5, "half", True])
def test_a_share_of_conversions_that_is_none_is_refused(value):
    with pytest.raises(InputError, match="conversions must be a number from 0 to 1"):
        Amp(conversions=value)


def test_probes_leave_out_what_measures_every_model_anew_and_mixes_keep_it():
    job = conv_job(seed=3)
    job = replace(job, space=replace(job.space, recipes={"bias_correction": True, "smooth_quant": True}))
    probed = []
    simulate(replace(job, probe=lambda p: (probed.append(p.candidate), job.probe(p))[1]))
    assert {frozenset(c.recipes) for c in probed} == {frozenset({("smooth_quant", True)})}
    assert all(dict(t.candidate.recipes)["bias_correction"] for t in rows(simulate(job)))
