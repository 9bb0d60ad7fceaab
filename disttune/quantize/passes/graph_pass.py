"""A graph pass: one change of the float graph that keeps what it computes, and says what it did.

A graph variant is the prepared model after the passes of a candidate's recipes, in the order of the table
`ORDER`; it has its own statistics. Nodes that can be quantized keep their names.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

from disttune.config.recipes import RecipeValue
from disttune.quantize import passes

if TYPE_CHECKING:
    from onnx import ModelProto

    from disttune.quantize.statistics.channels import ChannelStatistics

# Recipe of each pass, in the order in which they are applied.
ORDER = ("cross_layer_equalization", "smooth_quant")


@dataclass(frozen=True, eq=False)
class PassResult:
    """What a pass made.

    Args:
        model: the changed copy, or the model itself when nothing could be changed.
        changed: for people, one line for each change: "/conv1 and /conv2: equalized, scales 0.2 to 4.1".
        skipped: op or place to the reason why it was left as it is.
    """

    model: ModelProto
    changed: tuple[str, ...]
    skipped: Mapping[str, str]


class GraphPass(Protocol):
    """One pass. Deterministic; its argument is not changed.

    It reads the recipe of its own name and those whose names begin with it: `smooth_quant_alpha`.
    """

    def channel_tensors(self, model: ModelProto, recipes: Mapping[str, RecipeValue]) -> Mapping[str, int]:
        """Activations whose statistics per channel `apply` needs, with the axis of the channels.

        The axis counts from the front (1: images) or is -1 (rows). Empty when it needs none.
        """
        ...

    def apply(
        self,
        model: ModelProto,
        recipes: Mapping[str, RecipeValue],
        channels: Mapping[str, ChannelStatistics],
    ) -> PassResult:
        """The model with the change.

        Args:
            recipes: of the candidate.
            channels: of `channel_tensors`, by tensor.
        Raises:
            TrialError: the model cannot be changed so; names the op and the cause.
        """
        ...


_passes: dict[str, GraphPass] = {}
_P = TypeVar("_P", bound="type[GraphPass]")


def register_pass(recipe: str) -> Callable[[_P], _P]:
    """Class decorator: the pass of this recipe, a name in `ORDER`."""

    def register(graph_pass: _P) -> _P:
        _passes[recipe] = graph_pass()
        return graph_pass

    return register


def find_pass(recipe: str) -> GraphPass:
    """The pass of a recipe in `ORDER`."""
    if recipe not in _passes:
        for module in pkgutil.iter_modules(passes.__path__):
            importlib.import_module(f"{passes.__name__}.{module.name}")
    return _passes[recipe]
