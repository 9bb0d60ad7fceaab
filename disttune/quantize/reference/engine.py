"""The reference engine: static ops by `QDQQuantizer`, dynamic ones by `ONNXQuantizer`, both per op.

A light front: what needs onnxruntime is imported when an engine is made, so that asking for the methods
costs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from disttune.config.errors import InputError
from disttune.config.recipes import PREPARING
from disttune.quantize.engine import (
    RESOLVED_RECIPES,
    WRITTEN_RECIPES,
    EngineSettings,
    register_engine,
)
from disttune.space.candidate import Candidate
from disttune.space.summary import ModelSummary

if TYPE_CHECKING:
    import numpy as np
    from onnx import ModelProto


@register_engine("reference")
class ReferenceEngine:
    """See `Engine`. Slow and simple: each model is quantized from float again.

    Only the ranges of activations are kept from one candidate to the next.
    """

    methods: ClassVar[frozenset[str]] = frozenset({"minmax", "entropy", "percentile", "distribution"})
    approaches: ClassVar[frozenset[str]] = frozenset({"static", "dynamic", "weight_only"})
    recipes: ClassVar[frozenset[str]] = WRITTEN_RECIPES | RESOLVED_RECIPES | frozenset(PREPARING)

    def __init__(
        self,
        prepared: ModelProto,
        summary: ModelSummary,
        feeds: Sequence[Mapping[str, np.ndarray]],
        settings: EngineSettings,
    ):
        if settings.exclude:
            raise InputError('engine "reference" has no quantization.exclude_tensors; engine "fast" has.')
        from disttune.quantize.half_ops import HalfOps
        from disttune.quantize.reference.builder import Builder
        from disttune.quantize.tensor_memory import whole_model

        self._halves = HalfOps(settings)
        self._builder = Builder(whole_model(prepared), summary, feeds, settings)

    def build(self, candidate: Candidate) -> ModelProto:
        """See `Engine.build`. A candidate that quantizes nothing gives the prepared model."""
        types = self._halves.types(candidate)
        model = self._builder.build(candidate)
        return self._halves.in_model(model, types)
