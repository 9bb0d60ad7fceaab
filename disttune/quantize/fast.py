"""The fast engine: statistics once, thresholds and weights once for each scheme, graphs straight in protobuf.

A light front: what needs onnx is imported when an engine is made, so that asking for the methods costs
nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from disttune.config.errors import TrialError
from disttune.config.recipes import RECIPES
from disttune.config.schemes import METHODS
from disttune.config.weight_methods import WEIGHT_METHODS
from disttune.quantize.engine import EngineSettings, register_engine
from disttune.quantize.work import Results, Work, complete
from disttune.space.candidate import Candidate
from disttune.space.summary import ModelSummary

if TYPE_CHECKING:
    import numpy as np
    from onnx import ModelProto

    from disttune.quantize.builder.writer import Blueprint
    from disttune.quantize.statistics.statistics import Statistics


@register_engine("fast")
class FastEngine:
    """See `Engine`. For minmax its models are those of the engine "reference".

    Statistics come from `use`; else they are collected from all feeds when the first static candidate is
    built. `prepared` is kept and must not change any more.
    """

    methods: ClassVar[frozenset[str]] = frozenset({*METHODS, *WEIGHT_METHODS})
    approaches: ClassVar[frozenset[str]] = frozenset({"static", "dynamic", "weight_only"})
    recipes: ClassVar[frozenset[str]] = frozenset(RECIPES)

    def __init__(
        self,
        prepared: ModelProto,
        summary: ModelSummary,  # noqa: ARG002 (all it says is in the model)
        feeds: Sequence[Mapping[str, np.ndarray]],
        settings: EngineSettings,
    ):
        from disttune.quantize.builder.ranges import Ranges
        from disttune.quantize.half_ops import HalfOps
        from disttune.quantize.variants import Variants

        self._prepared = prepared
        self._feeds = feeds
        self._settings = settings
        self._has_collected = False
        self._ranges = Ranges(self._collect)
        self._variants = Variants(prepared, feeds, settings, self._ranges)
        self._variants.exclude(settings.exclude)
        self._halves = HalfOps(settings)

    def missing(self, candidate: Candidate) -> tuple[Work, ...]:
        """See `NeedsWork.missing`: statistics of the candidate's graph variant, and its layers."""
        return self._variants.missing(candidate)

    def run(self, work: Work) -> Results:
        """See `NeedsWork.run`."""
        return self._variants.run(work)

    def learn(self, work: Work, results: Results | str) -> None:
        """See `NeedsWork.learn`."""
        self._variants.learn(work, results)

    def use(self, statistics: Statistics) -> None:
        """Take these statistics of the prepared model's activations instead of collecting any."""
        self._ranges.use(statistics)

    def exclude(self, tensors: Iterable[str]) -> None:
        """Leave these tensors in float, and no others, in what is built from now on."""
        self._variants.exclude(tensors)

    def build(self, candidate: Candidate) -> ModelProto:
        """See `Engine.build`. A candidate that quantizes nothing gives the prepared model."""
        if candidate.quantized_ops or self._halves.types(candidate):
            return self.blueprint(candidate).model()
        from onnx import ModelProto

        model = ModelProto()
        model.CopyFrom(self._prepared)
        return model

    def blueprint(self, candidate: Candidate) -> Blueprint:
        """The model of a candidate, its large tensors beside it: those are shared by all candidates.

        Works that are still missing are done right here.

        Raises:
            TrialError: as `build`.
        """
        types = self._halves.types(candidate)
        complete(self, candidate)
        return self._halves.in_blueprint(self._variants.blueprint(candidate), types)

    def _collect(self, needed: Sequence[str]) -> Statistics:
        """At first of all tensors that may be needed, later of those that are."""
        from disttune.quantize.statistics.collect import collect, tensors_of_interest

        if not self._feeds:
            raise TrialError("static quantization needs calibration feeds, and there are none")
        graph = self._prepared.graph
        made = [
            *(value.name for value in graph.input),
            *(name for node in graph.node for name in node.output),
        ]
        wanted = set(needed)
        if not self._has_collected:
            settings = self._settings
            wanted.update(tensors_of_interest(self._prepared, settings.placement, settings.target))
        self._has_collected = True
        return collect(
            self._prepared,
            self._feeds,
            [name for name in made if name in wanted],
            n_threads=self._settings.n_threads,
            providers=self._settings.providers,
        )
