"""Any strategy over a config set: the space has what the configs give each op, and nothing else."""

from pathlib import Path

import pytest

from disttune.config.algorithms.dynamic import DynamicQuantConfig
from disttune.config.algorithms.smooth_quant import SmoothQuantConfig
from disttune.config.algorithms.static import StaticQuantConfig
from disttune.config.errors import InputError
from disttune.config.schemes import FLOAT32
from disttune.schedule.events import Commit
from disttune.schedule.exit_policy import ExitPolicy
from disttune.schedule.simulation import SimulatedJob, simulate
from disttune.strategy.registry import make_strategy
from tests.builders import chain
from tests.strategy.tunings import proposals, space_of, stages_of, tuning_of

SUMMARY = chain("Conv", "MatMul", "Conv")
SPACE = space_of(SUMMARY, approach="auto")
CONFIGS = [
    StaticQuantConfig(per_channel=[True, False], calibrate_method=["MinMax", "Entropy"]),
    DynamicQuantConfig(op_types_to_quantize=["MatMul"]),
]
NAMES = [
    "random", "exhaustive", "default", "conservative", "basic", "auto", "mse", "mse_v2", "hawq_v2", "tpe",
    "nsgaii", "sigopt",
]  # fmt: skip


def over(name, configs=CONFIGS, **kwargs):
    dicts = [config.to_dict() for config in configs]
    return make_strategy(name, {"configs": dicts, **kwargs}, Path())


@pytest.mark.parametrize("name", NAMES)
def test_every_strategy_stays_within_what_the_configs_span(name):
    job = SimulatedJob(
        lambda: over(name), SPACE, lambda c: 0.5, goal=2.0, policy=ExitPolicy("budget", max_trials=40),
        summary=SUMMARY,
    )  # fmt: skip
    ended = simulate(job, 3)
    static = [c.op_config() for c in CONFIGS[0].expand()]
    dynamic = CONFIGS[1].op_config()

    seen = {op: set() for op in SPACE.ops}
    for command in ended.commands:
        if isinstance(command, Commit):
            for op, config in command.trial.candidate.configs().items():
                seen[op].add(config)
    assert seen["Conv_0"] <= {*static, FLOAT32}
    assert seen["MatMul_1"] <= {*static, dynamic, FLOAT32}
    assert simulate(job, 1).table == ended.table
    if name not in ("default", "conservative", "hawq_v2"):
        assert len(seen["MatMul_1"]) > 2


def test_exhaustive_is_the_product_of_what_the_ops_can_have():
    configs = [StaticQuantConfig(per_channel=[True, False], nodes_to_exclude=["Conv_0"])]
    candidates = proposals(over("exhaustive", configs), tuning_of("Conv", "MatMul", "Conv"))

    assert len(candidates) == 4
    assert all(c.config_of("Conv_0") == FLOAT32 for c in candidates)


def test_recipes_of_the_configs_are_in_the_space():
    smoothed = SmoothQuantConfig(alpha=[0.3, 0.5, "auto"])
    tuning = tuning_of("Conv", "MatMul", "Conv")
    candidates = proposals(over("random", [smoothed]), tuning)
    assert candidates
    assert all(dict(c.recipes) == {"smooth_quant": True, "smooth_quant_alpha": 0.3} for c in candidates)

    alphas = stages_of(over("mse", [smoothed]), tuning_of("Conv", "MatMul", "Conv"))[0].items
    assert [dict(c.recipes).get("smooth_quant_alpha", 0.5) for c in alphas] == [0.3, 0.5, "auto"]


def test_a_recipe_that_no_strategy_tries_is_that_of_the_first_config():
    tuning = tuning_of("Conv", "MatMul", "Conv")
    candidates = proposals(over("random", [SmoothQuantConfig(), StaticQuantConfig()]), tuning)
    assert all(dict(c.recipes) == {"smooth_quant": True} for c in candidates)
    assert any("recipe smooth_quant is True in all candidates" in note for note in tuning.notes)


def test_a_strategy_with_configs_of_its_own_gets_them():
    assert type(over("sequential")).__name__ == "Sequential"


def test_other_keywords_go_to_the_strategy():
    assert over("tpe", level="op_type").strategy.level == "op_type"
    with pytest.raises(InputError, match='strategy tpe: no keyword "levl"'):
        over("tpe", levl="op_type")


def test_an_empty_set_is_refused():
    with pytest.raises(InputError, match="configs is empty; give at least one"):
        over("random", [])


def test_a_strategy_that_tries_calibration_sizes_does_so_over_configs_too():
    assert [over(name).tries_calibration_sizes for name in ("auto", "random")] == [True, False]
