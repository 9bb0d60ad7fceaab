"""The start that auto, basic, mse, mse_v2 and hawq_v2 have in common: algorithms of the whole model first.

A start stage tries settings that everything afterwards builds upon, e.g. the alphas of SmoothQuant or the
named settings of weight-only quantization, and keeps the best. Adding one is a module below this package
with `@register_start("name")` over a generator that takes the tuning and the space so far, yields
stages, and returns the space to go on with. They run in the order of their names.
"""

from collections.abc import Callable, Generator

from disttune.space.space import Space
from disttune.strategy.registry import import_shipped
from disttune.strategy.stage import Stage, StageResult
from disttune.strategy.tuning import Tuning

StartStage = Callable[[Tuning, Space], Generator[Stage, StageResult, Space]]
_REGISTERED: dict[str, StartStage] = {}


def register_start(name: str) -> Callable[[StartStage], StartStage]:
    """Decorator: make a generator part of the start."""

    def register(stage: StartStage) -> StartStage:
        _REGISTERED[name] = stage
        return stage

    return register


def start(tuning: Tuning) -> Generator[Stage, StageResult, Space]:
    """Run every start stage; returns the space with what they have settled."""
    import_shipped()
    space = tuning.space
    for name in sorted(_REGISTERED):
        space = yield from _REGISTERED[name](tuning, space)
    return space
