"""Engines: what turns a candidate into a quantized model. Registered by name, loaded when first asked for.

Pure but for the import of the engine that is asked for; knows neither onnx nor onnxruntime.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol, TypeVar, runtime_checkable

from disttune.config.errors import InputError
from disttune.config.nearest import unknown_name
from disttune.config.recipes import RECIPES, RecipeValue
from disttune.space.candidate import Candidate
from disttune.space.summary import ModelSummary

if TYPE_CHECKING:  # rank 0's agent asks for names and methods only, and stays small
    import numpy as np
    from onnx import ModelProto

    from disttune.quantize.builder.writer import Blueprint
    from disttune.quantize.shelf import Shelf
    from disttune.quantize.statistics.statistics import Statistics

# Recipes of how Q and DQ are written, and those that the space has already turned into ops left in float.
WRITTEN_RECIPES = frozenset(
    {"add_qdq_pair_to_weight", "dedicated_qdq_pair", "quantize_bias", "optypes_to_exclude_output_quant"}
)
RESOLVED_RECIPES = frozenset(
    {"first_conv_or_matmul_quantization", "last_conv_or_matmul_quantization", "pre_post_process_quantization"}
)
_BUILT_IN = ("disttune.quantize.reference.engine", "disttune.quantize.fast")
_engines: dict[str, type[Engine]] = {}
_E = TypeVar("_E", bound="type[Engine]")


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """What an engine is told beside the model.

    Args:
        providers: of onnxruntime, for calibration runs.
        n_threads: of a calibration run; 0 leaves it to onnxruntime.
        placement: "speed" or "all".
        directory: for temporary files; None: the system's place. Nothing stays in it.
        target: name of a capability file.
        block_samples: least samples of a block of calibration.
        weight_only_format: "matmulnbits" or "qdq": what ops become whose weight alone has codes.
        accuracy_level: of MatMulNBits; 0: unset.
        exclude: tensors of the prepared model that stay in float.
        shelf: where processes of a node share what they make of the weights; None: nowhere.
        half_ops: ops that are computed in "float16" or "bfloat16" in every candidate.
        tell: called with a line for what a recipe changed, and for what it could not.
    """

    providers: tuple[str, ...] = ("CPUExecutionProvider",)
    n_threads: int = 1
    placement: str = "speed"
    directory: Path | None = None
    target: str = "ort-cpu"
    block_samples: int = 16
    weight_only_format: str = "qdq"
    accuracy_level: int = 0
    exclude: tuple[str, ...] = ()
    shelf: Shelf | None = None
    half_ops: Mapping[str, str] = field(default_factory=dict)
    tell: Callable[[str], object] = field(default=lambda _: None, compare=False)


class Engine(Protocol):
    """Builds quantized models from one prepared model and its calibration feeds.

    Args:
        prepared: made by `graph.prepare`; not changed.
        summary: of the same model: its op names are the names of the nodes.
        feeds: calibration inputs, in the loader's order.
        settings: see `EngineSettings`.
    """

    methods: ClassVar[frozenset[str]]
    approaches: ClassVar[frozenset[str]]
    recipes: ClassVar[frozenset[str]]

    def __init__(
        self,
        prepared: ModelProto,
        summary: ModelSummary,
        feeds: Sequence[Mapping[str, np.ndarray]],
        settings: EngineSettings,
    ) -> None: ...

    def build(self, candidate: Candidate) -> ModelProto:
        """The model of a candidate: valid, complete, the same bytes each time.

        Raises:
            TrialError: the candidate cannot be built; names the op and the cause.
        """
        ...


@runtime_checkable
class UsesStatistics(Protocol):
    """An engine that quantizes from statistics, which are collected once for all candidates."""

    def use(self, statistics: Statistics) -> None:
        """Take the statistics of the prepared model's activations."""
        ...


@runtime_checkable
class MakesBlueprints(Protocol):
    """An engine whose models share their large tensors."""

    def blueprint(self, candidate: Candidate) -> Blueprint:
        """The model of a candidate, its large tensors beside it; raises what `Engine.build` does."""
        ...


def check_recipes(engine: str, given: Mapping[str, Sequence[RecipeValue]]) -> None:
    """Refuse recipes of a job that its engine does not have.

    Args:
        engine: its name.
        given: values of each recipe of the job.
    Raises:
        InputError: one of them is asked for; names those that there are.
    """
    known = find_engine(engine).recipes
    for name, values in given.items():
        if name not in known and any(value != RECIPES[name].default for value in values):
            raise InputError(
                f'[quantization] recipes.{name}: engine "{engine}" does not have it. '
                f"It has {', '.join(sorted(known))}."
            )


def register_engine(name: str) -> Callable[[_E], _E]:
    """Class decorator: `quantization.engine = name` means this class."""

    def register(engine: _E) -> _E:
        _engines[name] = engine
        return engine

    return register


def engine_names() -> list[str]:
    """Names of all engines."""
    for module in _BUILT_IN:
        importlib.import_module(module)
    return sorted(_engines)


def find_engine(name: str) -> type[Engine]:
    """The engine of that name.

    Raises:
        InputError: there is none; names the nearest and all.
    """
    names = engine_names()
    if name not in names:
        raise InputError(unknown_name("engine", name, names))
    return _engines[name]
