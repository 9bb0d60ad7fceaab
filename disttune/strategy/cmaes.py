"""CMA-ES over ordered codes of the options of ops or op types, in batches.

Options count by their position in the op's list, so that an evolution path means something; on plain names
it would be random search. Source: Hansen and Ostermeier 2001; Optuna's sampler with margin (Hamano et al.
2022), which keeps whole numbers from freezing.
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


@register_strategy("cmaes")
class Cmaes:
    """See the head of this file.

    Args:
        level: "op" or "op_type" dimensions; by default by op unless more than 30 have options.
    """

    def __init__(self, level: str | None = None):
        check_level(level, "cmaes")
        require("cmaes", "cmaes", "samplers")
        self.level = level

    def stages(self, tuning: Tuning) -> Generator[Stage, StageResult, None]:
        from optuna.samplers import CmaEsSampler, RandomSampler

        grid = sampler_grid(tuning.space, self.level)
        sampler = OptunaSampler(
            lambda: CmaEsSampler(
                seed=tuning.seed,
                with_margin=True,
                independent_sampler=RandomSampler(seed=tuning.seed),
                warn_independent_sampling=False,
            ),
            grid,
            losses(tuning),
            ordered=True,
        )
        yield from sample(tuning, grid, sampler, "cmaes")
