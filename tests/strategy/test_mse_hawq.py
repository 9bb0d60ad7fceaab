"""mse, mse_v2 and hawq_v2 with simulated probes, against plain renderings."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from disttune.config.errors import InputError
from disttune.schedule.events import Assign, OpenStage
from disttune.schedule.simulation import simulate
from disttune.schedule.strategy_check import check_strategy
from disttune.strategy import Probe
from disttune.strategy.hawq_v2 import HawqV2
from disttune.strategy.mse import Mse
from disttune.strategy.mse_v2 import MseV2
from tests.strategy import plain_probes
from tests.strategy.drawn import drawn
from tests.strategy.plain import Plain, best_row, table

RENDERINGS = {
    "mse": (Mse, plain_probes.mse),
    "mse_v2": (MseV2, plain_probes.mse_v2),
    "mse_v2 not strict": (
        lambda: MseV2(strict_revert=False),
        lambda p: plain_probes.mse_v2(p, strict=False),
    ),
    "hawq_v2": (HawqV2, plain_probes.hawq_v2),
}
SEEDS = st.integers(0, 10**6)


def job_of(name, seed, **options):
    job = drawn(seed)
    return job, job.job(RENDERINGS[name][0], probe=lambda p: plain_probes.answer(job, p), **options)


@pytest.mark.parametrize("name", RENDERINGS)
@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, stop_at=st.sampled_from(["goal", "budget"]))
def test_the_proposals_are_those_of_the_plain_rendering(name, seed, stop_at):
    job, simulated = job_of(name, seed, stop_at=stop_at)
    expected = Plain(job, stop_at).run(RENDERINGS[name][1])
    ended = simulate(simulated)
    assert table(ended) == expected.table()
    preferred = getattr(expected, "preferred", None)
    best = best_row([r for r in expected.rows if r.first is None], job.goal, None)
    if preferred is not None:  # a repeat stands for what it repeats
        assert ended.best == (preferred.number if preferred.first is None else preferred.first)
    else:
        assert ended.best == (best.number if best else None)


@pytest.mark.parametrize("name", RENDERINGS)
@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, ranks=st.integers(2, 64), data=st.data())
def test_the_table_is_the_same_on_any_number_of_workers_and_with_deaths(name, seed, ranks, data):
    _, simulated = job_of(name, seed)
    dying = data.draw(st.sets(st.integers(1, ranks - 1), max_size=2))
    lost = {rank: data.draw(st.floats(0.1, 20)) for rank in dying}
    assert simulate(simulated, ranks, lost, nodes=3).table == simulate(simulated, 1).table


@pytest.mark.parametrize("strategy", [Mse, MseV2, HawqV2])
def test_what_holds_for_every_strategy_holds(strategy):
    check_strategy(strategy)


def test_the_probes_of_a_round_run_at_the_same_time():
    rng = random.Random(4)
    seeds = (rng.randrange(10**6) for _ in range(1000))
    seed = next(s for s in seeds if len(drawn(s).space.ops) >= 6 and drawn(s).goal == 2.0)
    _, simulated = job_of("mse_v2", seed)
    simulated.policy = type(simulated.policy)("goal", max_trials=100)
    commands = simulate(simulated, ranks=8).commands
    rounds, together = [], 0
    for command in commands:
        match command:
            case OpenStage(stage=stage) if stage.name.startswith("error without op"):
                rounds.append(stage)
                together = 0
            case Assign(item=Probe()):
                together += 1
    assert len(rounds) >= 3
    first = [c for c in commands if isinstance(c, Assign) and isinstance(c.item, Probe)][:6]
    assert len({c.rank for c in first}) >= 5


def test_more_than_no_feed_is_needed():
    with pytest.raises(InputError, match="confidence_batches must be a whole number of at least 1"):
        MseV2(confidence_batches=0)
