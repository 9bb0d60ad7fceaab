"""NSGA-II: a population that approaches the Pareto front of metric and cost, in batches.

The first objective is the metric itself, not the shortfall, so that the front goes beyond the goal; the
second is the job's objective, or the size. The population is max(8, max_trials / 8).
Source: Deb et al. 2002; Optuna's sampler.
"""

from collections.abc import Generator

from disttune.strategy.batches import sample
from disttune.strategy.extras import require
from disttune.strategy.grid import check_level, sampler_grid
from disttune.strategy.loss import cost
from disttune.strategy.optuna_sampler import OptunaSampler
from disttune.strategy.registry import register_strategy
from disttune.strategy.stage import Stage, StageResult
from disttune.strategy.trial import Trial
from disttune.strategy.tuning import Tuning

MIN_POPULATION = 8


@register_strategy("nsgaii")
class Nsgaii:
    """See the head of this file.

    Args:
        level: "op" or "op_type" dimensions; by default by op unless more than 30 have options.
    """

    def __init__(self, level: str | None = None):
        check_level(level, "nsgaii")
        require("nsgaii", "optuna")
        self.level = level

    def stages(self, tuning: Tuning) -> Generator[Stage, StageResult, None]:
        from optuna.samplers import NSGAIISampler

        sign = -1.0 if tuning.goal.higher_is_better else 1.0

        def values(trial: Trial) -> tuple[float, float] | None:
            return None if trial.metric is None else (sign * trial.metric, cost(tuning, trial))

        grid = sampler_grid(tuning.space, self.level)
        population = max(MIN_POPULATION, tuning.max_trials // MIN_POPULATION)
        sampler = OptunaSampler(
            lambda: NSGAIISampler(population_size=population, seed=tuning.seed), grid, values, n_values=2
        )
        yield from sample(tuning, grid, sampler, "nsgaii")
