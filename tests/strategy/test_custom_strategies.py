"""Strategies of users: the bundled examples, and the base class in the form of INC's."""

import runpy
from pathlib import Path

import pytest

import disttune
from disttune.config.algorithms.static import StaticQuantConfig
from disttune.config.errors import UserCodeError
from disttune.schedule.events import Assign
from disttune.schedule.exit_policy import ExitPolicy
from disttune.schedule.simulation import SimulatedJob, simulate
from disttune.schedule.strategy_check import check_strategy
from disttune.strategy import Stage, make_strategy
from disttune.strategy.tune_strategy import TuneStrategy
from tests.simulated import OPTIONS, landscape, small_space

EXAMPLES = Path(disttune.__file__).parent / "examples" / "custom_strategies"
NAMES = ["fallback.py:Fallback", "one_by_one.py:OneByOne", "one_by_one.py:EachAlone"]


def run(strategy, ranks=4, metric=lambda c: 0.5, **options):
    policy = ExitPolicy("budget", max_trials=50)
    return simulate(SimulatedJob(strategy, small_space(5), metric, policy=policy, **options), ranks)


@pytest.mark.parametrize("name", NAMES)
def test_the_bundled_examples_hold(name):
    check_strategy(lambda: make_strategy(name, {}, EXAMPLES), ranks=(2, 50), seeds=(0,))


def test_the_bundled_example_finds_the_guilty_ops():
    ended = run(
        lambda: make_strategy(NAMES[0], {}, EXAMPLES), metric=landscape(0, ["conv_1", "conv_3"]), goal=0.95
    )
    best = next(
        c.trial for c in reversed(ended.commands) if hasattr(c, "trial") and c.trial.number == ended.best
    )
    assert {"conv_1", "conv_3"} <= set(best.candidate.ops) - set(best.candidate.quantized_ops)


class Recording(TuneStrategy):
    def __init__(self):
        self.given = []

    def next_tune_cfg(self):
        for op in self.space.ops:
            self.given.append((yield self.default.in_float(op)))


def numbers(given):
    return [None if trial is None else trial.number for trial in given]


def test_a_yield_gives_the_trial_of_what_it_yielded():
    strategy = Recording()
    ended = run(lambda: strategy)
    assert numbers(strategy.given) == [0, 1, 2, 3, 4]
    assert [row[1] for row in ended.table] == [f"config {n}" for n in range(1, 6)]
    assert strategy.best.number == ended.best


def test_a_batch_runs_at_the_same_time_and_gives_the_last_result_before_it():
    strategy = Recording()
    strategy.batch_size = 2
    run(lambda: strategy)
    assert numbers(strategy.given) == [None, 1, 1, 3, 3]


def test_configs_without_need_of_results_run_on_all_ranks_at_once():
    strategy = Recording()
    strategy.batch_size = None
    ended = run(lambda: strategy, ranks=5)
    first = [c.rank for c in ended.commands if isinstance(c, Assign)][:5]
    assert sorted(first) == [0, 1, 2, 3, 4]
    assert numbers(strategy.given) == [None] * 5


def test_a_plain_list_of_configs_is_a_strategy_as_well():
    class Listed(TuneStrategy):
        def next_tune_cfg(self):
            return [self.default, {"conv_1": OPTIONS[1]}, StaticQuantConfig(per_channel=True)]

    assert len(run(Listed).table) == 3


def test_traverse_may_yield_stages():
    class Staged(TuneStrategy):
        def traverse(self):
            yield Stage("all", [self.default])

    assert [row[1] for row in run(Staged).table] == ["all"]


def test_a_met_goal_ends_it_unless_the_class_says_otherwise():
    class Stubborn(Recording):
        goal_stops = False

    def table(strategy):
        job = SimulatedJob(strategy, small_space(5), lambda c: 0.95, policy=ExitPolicy("goal"))
        return simulate(job).table

    assert (len(table(Recording)), len(table(Stubborn))) == (1, 5)


def test_what_is_no_config_is_named():
    class Wrong(TuneStrategy):
        def next_tune_cfg(self):
            yield {"conv_0": "int8"}

    with pytest.raises(
        UserCodeError, match="strategy Wrong: next_tune_cfg yields candidates, algorithm configs"
    ):
        run(Wrong)


def test_the_example_files_need_nothing_but_the_package():
    for name in {name.partition(":")[0] for name in NAMES}:
        runpy.run_path(str(EXAMPLES / name))
