"""Tree-structured Parzen estimator over the options of ops or op types, in batches.

Source: Bergstra et al. 2011; Optuna's sampler, multivariate and grouped, with constant liar for the points
of a batch. INC 2.6 has it with hyperopt.
"""

from collections.abc import Generator

from disttune.strategy.batches import sample
from disttune.strategy.extras import require
from disttune.strategy.grid import check_level, sampler_grid
from disttune.strategy.loss import losses
from disttune.strategy.optuna_sampler import OptunaSampler
from disttune.strategy.registry import register_strategy
from disttune.strategy.stage import Stage, StageResult
from disttune.strategy.tuning import Tuning


@register_strategy("tpe")
class Tpe:
    """See the head of this file.

    Args:
        level: "op" or "op_type" dimensions; by default by op unless more than 30 have options.
        n_startup_trials: random points before the estimator.
    """

    def __init__(self, level: str | None = None, n_startup_trials: int = 10):
        check_level(level, "tpe")
        require("tpe", "optuna")
        self.level = level
        self.n_startup_trials = n_startup_trials

    def stages(self, tuning: Tuning) -> Generator[Stage, StageResult, None]:
        from optuna.samplers import TPESampler

        grid = sampler_grid(tuning.space, self.level)
        sampler = OptunaSampler(
            lambda: TPESampler(
                seed=tuning.seed,
                n_startup_trials=self.n_startup_trials,
                multivariate=True,
                group=True,
                constant_liar=True,
            ),
            grid,
            losses(tuning),
        )
        yield from sample(tuning, grid, sampler, "tpe")
