"""One graph variant, and which recipes of a candidate make it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from onnx import ModelProto

from disttune.config.recipes import RecipeValue
from disttune.quantize.builder.build import Builder
from disttune.quantize.builder.ranges import Ranges
from disttune.quantize.layer_solver import LayerSolver
from disttune.quantize.passes.cross_layer_equalization import FOR_ONE_SCALE, GATE
from disttune.quantize.passes.graph_pass import ORDER
from disttune.quantize.passes.smooth_quant import ALPHA, PER_TENSOR
from disttune.space.candidate import Candidate

CORRECTIONS = ("weight_correction", "fast_bias_correction", "bias_correction")
WEIGHT_CORRECTION, FAST_BIAS_CORRECTION, BIAS_CORRECTION = CORRECTIONS
# Recipes that look at how many scales weights have, and what tells them that it is one.
_HINTS = {(ALPHA, "auto"): PER_TENSOR, (GATE, True): FOR_ONE_SCALE}
Recipes = tuple[tuple[str, RecipeValue], ...]
Feed = Mapping[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Variant:
    """One variant, ready to build from.

    Args:
        recipes: those of its passes; none for the prepared model itself.
        model: the float model.
        report: what each pass changed, for people.
        skipped: op or place to the reason why a pass left it as it is.
        ranges: of its activations.
        builder: of its candidates.
        solver: of its layers.
    """

    recipes: Recipes
    model: ModelProto
    report: tuple[str, ...]
    skipped: Mapping[str, str]
    ranges: Ranges
    builder: Builder
    solver: LayerSolver

    @property
    def digest(self) -> str:
        """Of the model."""
        return self.solver.model_digest


def variant_recipes(candidate: Candidate) -> Recipes:
    """The recipes of a candidate that change its float graph, with those that go with them by name."""
    passes = [name for name in ORDER if dict(candidate.recipes).get(name)]
    own = tuple((r, v) for r, v in candidate.recipes if any(belongs(r, name) for name in passes))
    if not _HINTS.keys().isdisjoint(own) and _is_mostly_per_tensor(candidate):
        own = (*own, *((hint, True) for recipe, hint in _HINTS.items() if recipe in own))
    return own


def _is_mostly_per_tensor(candidate: Candidate) -> bool:
    weights = [config.weight for config in candidate.configs().values() if config.weight is not None]
    return 2 * sum(weight.granularity == "per_tensor" for weight in weights) > len(weights)


def without_variant(candidate: Candidate) -> Candidate:
    """The candidate as the builder of its variant sees it."""
    taken = (*ORDER, *CORRECTIONS)
    rest = [(r, v) for r, v in candidate.recipes if not any(belongs(r, name) for name in taken)]
    return replace(candidate, recipes=tuple(rest)) if len(rest) < len(candidate.recipes) else candidate


def belongs(recipe: str, name: str) -> bool:
    """Whether a recipe is the one of this name, or an option of it."""
    return recipe == name or recipe.startswith(f"{name}_")
