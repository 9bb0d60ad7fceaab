"""Quasi-Monte Carlo: a scrambled Sobol sequence over ordered codes of the options, in batches.

It fills the grid more evenly than random points do, and learns nothing from results.
Source: Sobol 1967, Owen 1998; Optuna's sampler.
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


@register_strategy("qmc")
class Qmc:
    """See the head of this file.

    Args:
        level: "op" or "op_type" dimensions; by default by op unless more than 30 have options.
    """

    def __init__(self, level: str | None = None):
        check_level(level, "qmc")
        require("qmc", "scipy", "samplers")
        self.level = level

    def stages(self, tuning: Tuning) -> Generator[Stage, StageResult, None]:
        from optuna.samplers import QMCSampler, RandomSampler

        grid = sampler_grid(tuning.space, self.level)
        sampler = OptunaSampler(
            lambda: QMCSampler(
                scramble=True,
                seed=tuning.seed,
                independent_sampler=RandomSampler(seed=tuning.seed),
                warn_asynchronous_seeding=False,
                warn_independent_sampling=False,
            ),
            grid,
            losses(tuning),
            ordered=True,
        )
        yield from sample(tuning, grid, sampler, "qmc")
