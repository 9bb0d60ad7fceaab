"""`check_strategy` passes every shipped strategy and tells what is wrong with a faulty one."""

import random

import pytest

from disttune.config.schemes import OpConfig
from disttune.schedule.strategy_check import StrategyFaultError, check_strategy
from disttune.strategy import Stage
from disttune.strategy.auto import Auto
from disttune.strategy.basic import Basic
from disttune.strategy.conservative import Conservative
from disttune.strategy.default import Default
from disttune.strategy.exhaustive import Exhaustive
from disttune.strategy.random import Random


@pytest.mark.parametrize("strategy", [Default, Exhaustive, Random, Conservative, Basic, Auto])
def test_the_shipped_strategies_hold(strategy):
    check_strategy(strategy)


class Fault:
    """A strategy made of one generator function."""

    def __init__(self, stages):
        self.stages = stages


def looks_ahead(tuning):
    def items():
        for _ in range(30):
            n_known = len(tuning.trials)  # what is committed when an item is drawn depends on the ranks
            yield tuning.space[n_known]

    yield Stage("peeking", items())


def rolls_dice(tuning):
    yield Stage("dice", [tuning.space[random.randrange(100)] for _ in range(30)])


def leaves_the_space(tuning):
    start = tuning.space.default_candidate()
    yield Stage("other", [start.with_configs({start.ops[0]: OpConfig("float", float_type="float16")})])


@pytest.mark.parametrize(("stages", "message"), [
    (looks_ahead, "not that of one rank"),
    (rolls_dice, "not that of one rank"),
    (leaves_the_space, "trial 0 leaves the space"),
])  # fmt: skip
def test_a_fault_is_named(stages, message):
    with pytest.raises(StrategyFaultError, match=message):
        check_strategy(lambda: Fault(stages))
