"""A graph pass: one change of the float graph that keeps what it computes, and says what it did.

A graph variant is the prepared model after the passes of a candidate's recipes, in the order of the table
`ORDER`; it has its own statistics. Nodes that can be quantized keep their names.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol, TypeVar

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

    `needs_channels`: whether `apply` is handed statistics per channel of the tensors that
    `channel_tensors` names.
    """

    needs_channels: ClassVar[bool]

    def channel_tensors(self, model: ModelProto) -> tuple[str, ...]:
        """Activations whose statistics per channel (last axis, or axis 1 behind a Conv) the pass needs."""
        ...

    def apply(
        self,
        model: ModelProto,
        recipes: Mapping[str, RecipeValue],
        channels: Mapping[str, ChannelStatistics],
    ) -> PassResult:
        """The model with the change.

        Args:
            recipes: of the candidate; the pass reads its own and those that go with it.
            channels: by tensor; empty when it needs none.
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
