"""Start stage of SmoothQuant: the default candidate once for each alpha of the job; the best is kept.

It has a part where `recipes.smooth_quant` is on and `recipes.smooth_quant_alpha` holds several values.

Source: INC 2.6, start stage of its tuning strategies. What we do differently: where no alpha meets the goal
the search goes on, with the best of them.
"""

from collections.abc import Generator

from disttune.space.candidate import Candidate
from disttune.space.changes import with_recipe
from disttune.space.space import Space
from disttune.strategy.so_far import SoFar
from disttune.strategy.stage import Stage, StageResult
from disttune.strategy.start import register_start
from disttune.strategy.tuning import Tuning

RECIPE, ALPHA = "smooth_quant", "smooth_quant_alpha"


@register_start("2 SmoothQuant alpha")
def smooth_quant_alpha(tuning: Tuning, space: Space) -> Generator[Stage, StageResult, Space]:
    """The stage; returns the space with the best alpha."""
    alphas = space.alternatives.get(ALPHA, ())
    if space.recipes.get(RECIPE) is not True or len(alphas) < 2:
        return space
    candidates: dict[Candidate, Space] = {}
    for alpha in alphas:
        smoothed = with_recipe(space, ALPHA, alpha)
        candidates.setdefault(smoothed.default_candidate(), smoothed)
    so_far = SoFar(tuning, space.default_candidate())
    yield from so_far.run(Stage("SmoothQuant alpha", list(candidates)))
    return candidates.get(so_far.best, space)
