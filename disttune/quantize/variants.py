"""Graph variants: the prepared model after the graph passes of a candidate's recipes.

A variant has statistics of its own. It is made once in each process, from results that all ranks share:
statistics per channel of the model before a pass that needs them, then the statistics of the variant's own
activations, block by block. Results go by the digest of the model, not by the recipes: different recipes may
give one model. Of the models themselves only the last few are kept.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from onnx import ModelProto

from disttune.config.errors import TrialError
from disttune.quantize.bias_correction import FastBiasCorrection
from disttune.quantize.builder.build import Builder
from disttune.quantize.builder.ranges import Ranges
from disttune.quantize.builder.writer import Blueprint
from disttune.quantize.built_layers import FloatLayers, correctable_nodes
from disttune.quantize.digest import model_digest
from disttune.quantize.engine import EngineSettings
from disttune.quantize.equivalence import MOST_DIFFERENCE, N_CHECKED, largest_difference
from disttune.quantize.layer_solver import LayerSolver
from disttune.quantize.layers import has_layers
from disttune.quantize.passes.graph_pass import ORDER, find_pass
from disttune.quantize.sequential_correction import correct_sequentially, shifted
from disttune.quantize.shelf import put_on
from disttune.quantize.statistics.channels import (
    ChannelStatistics,
    channels_as_arrays,
    channels_from_arrays,
)
from disttune.quantize.statistics.collect import Collector, blocks, tensors_of_interest
from disttune.quantize.statistics.kept_tensors import KeptTensors
from disttune.quantize.statistics.layer_means import LayerMeans, as_arrays, from_arrays, measure_layer_means
from disttune.quantize.statistics.measure_channels import measure_channels
from disttune.quantize.statistics.statistics import Statistics
from disttune.quantize.variant import (
    BIAS_CORRECTION,
    FAST_BIAS_CORRECTION,
    WEIGHT_CORRECTION,
    Feed,
    Recipes,
    Variant,
    belongs,
    variant_recipes,
    without_variant,
)
from disttune.quantize.weight_correction import WeightCorrection
from disttune.quantize.work import Results, Work
from disttune.space.candidate import Candidate

_KEPT = 4  # a variant costs as much memory as the model


class Variants:
    """The variants of one prepared model.

    Args:
        prepared: it is kept and must not change any more.
        feeds: all calibration feeds.
        settings: of the engine.
        ranges: of the prepared model's activations.
    """

    def __init__(self, prepared: ModelProto, feeds: Sequence[Feed], settings: EngineSettings, ranges: Ranges):
        self._feeds = feeds
        self._settings = settings
        self._data_digest = ""
        self._channels: dict[str, dict[str, ChannelStatistics]] = {}
        self._parts: dict[str, dict[int, Statistics]] = {}  # by digest of the model
        self._statistics: dict[str, Statistics] = {}
        self._collector: tuple[str, Collector] | None = None  # of the last variant, by digest
        self._solutions: dict[str, Results | str] = {}
        self._failed: dict[str, str] = {}
        self._kept = KeptTensors()
        self._excluded: frozenset[str] = frozenset()
        self._told: set[str] = set()
        self._means: dict[str, Mapping[str, LayerMeans]] = {}
        self._correction: tuple[Variant, tuple[WeightCorrection, FastBiasCorrection]] | None = None
        self._shifts: dict[str, Results] = {}
        self._prepared = self._variant((), prepared, (), {}, ranges)
        self._variants: OrderedDict[Recipes, Variant] = OrderedDict()

    def missing(self, candidate: Candidate) -> tuple[Work, ...]:
        """See `NeedsWork.missing`."""
        recipes = variant_recipes(candidate)
        configs = [candidate.default, *(config for _, config in candidate.exceptions)]
        names = dict(candidate.recipes)
        corrects = names.get(WEIGHT_CORRECTION) is True or names.get(FAST_BIAS_CORRECTION) is True
        in_order = names.get(BIAS_CORRECTION) is True
        if not recipes and not has_layers(configs) and not corrects and not in_order:
            return ()
        variant = self._find(recipes)
        if isinstance(variant, Work):
            return (variant,)
        works = variant.solver.missing(without_variant(candidate), recipes)
        if any(config.approach == "static" for config in configs):
            works = (*self._missing_statistics(variant), *works)
        works = (*works, *self._missing_means(variant)) if corrects else works
        return self._missing_shifts(candidate, variant) if in_order and not works else works

    def run(self, work: Work) -> Results:
        """See `NeedsWork.run`."""
        match work.kind:
            case "solve":
                return self._made(work.arguments[0]).solver.run(work)
            case "channels":
                return self._run_channels(*work.arguments)
            case "means":
                return as_arrays(self._measured_means(self._made(work.arguments[0]).model))
            case "shifts":
                return self._run_shifts(*work.arguments)
            case _:
                return self._run_statistics(*work.arguments)

    def learn(self, work: Work, results: Results | str) -> None:
        """See `NeedsWork.learn`."""
        if work.kind == "solve":
            if not isinstance(results, str):  # every process of a node has learnt the same
                results = put_on(self._settings.shelf, f"solution {work.key}", results)
            self._solutions[work.key] = results
        elif isinstance(results, str):
            self._failed[work.key] = results
        elif work.kind == "channels":
            self._channels[work.key] = channels_from_arrays(results)
        elif work.kind == "means":
            self._means[work.place] = from_arrays(results)
        elif work.kind == "shifts":
            self._shifts[work.key] = results
        else:
            self._learn_statistics(work.place, work.arguments[1], Statistics.from_arrays(results))

    def blueprint(self, candidate: Candidate) -> Blueprint:
        """The model of a candidate that misses nothing."""
        self._collector = None  # its sessions are large, and all blocks are measured
        variant = self._made(variant_recipes(candidate))
        blueprint = variant.builder.blueprint(without_variant(candidate))
        recipes = dict(candidate.recipes)
        if recipes.get(FAST_BIAS_CORRECTION) is not True:  # it finds the same shifts
            blueprint = _with_learned_shifts(blueprint, variant, without_variant(candidate))
        if recipes.get(WEIGHT_CORRECTION) is True:
            blueprint, skipped = self._corrections(variant)[0].correct(blueprint)
            self._tell([f"{WEIGHT_CORRECTION}: {op}: {why}" for op, why in skipped.items()])
        if recipes.get(FAST_BIAS_CORRECTION) is True:
            corrected = self._corrections(variant)[1].correct(blueprint)
            self._tell([f"{FAST_BIAS_CORRECTION}: {op}: {why}" for op, why in corrected.skipped.items()])
            blueprint = corrected.blueprint
        if recipes.get(BIAS_CORRECTION) is True:
            shifts = self._shifts[self._shifts_key(candidate, variant)]
            self._tell([f"{BIAS_CORRECTION}: {line}" for line in shifts["skipped"]])
            by_op = {str(op): shifts[str(i)] for i, op in enumerate(shifts["names"])}
            blueprint = shifted(blueprint, variant.model, by_op)
        return blueprint

    def exclude(self, tensors: Iterable[str]) -> None:
        """Leave these tensors in float, and no others, in what is built from now on."""
        self._excluded = frozenset(tensors)
        for variant in (self._prepared, *self._variants.values()):
            variant.builder.exclude(self._excluded)

    def _find(self, recipes: Recipes) -> Variant | Work:
        """The variant, or the work that has to be done before it can be made.

        Raises:
            TrialError: it cannot be made.
        """
        if not recipes:
            return self._prepared
        if recipes not in self._variants:
            made = self._make(recipes)
            if isinstance(made, Work):
                return made
            self._variants[recipes] = made
            while len(self._variants) > _KEPT:
                self._variants.popitem(last=False)
        self._variants.move_to_end(recipes)
        return self._variants[recipes]

    def _made(self, recipes: Recipes) -> Variant:
        """The variant, with what it needs measured right here if need be."""
        while isinstance(found := self._find(recipes), Work):
            self.learn(found, self.run(found))
        return found

    def _missing_statistics(self, variant: Variant) -> tuple[Work, ...]:
        """Works for the statistics of a variant's activations; none for the prepared model."""
        if not variant.recipes or variant.digest in self._statistics:
            return ()
        known = self._parts.get(variant.digest, {})
        works = [work for i, work in enumerate(self._statistics_works(variant)) if i not in known]
        for work in works:
            if work.key in self._failed:
                raise TrialError(self._failed[work.key])
        return tuple(works)

    def _statistics_works(self, variant: Variant) -> list[Work]:
        """One for each block of samples."""
        numbers = range(len(self._blocks()))
        return [self._work("statistics", variant.recipes, variant.digest, number) for number in numbers]

    def _missing_means(self, variant: Variant) -> tuple[Work, ...]:
        """The work for the mean inputs of a variant's layers."""
        if variant.digest in self._means:
            return ()
        self._blocks()
        work = self._work("means", variant.recipes, variant.digest, 0)
        if work.key in self._failed:
            raise TrialError(self._failed[work.key])
        return (work,)

    def _measured_means(self, model: ModelProto) -> Mapping[str, LayerMeans]:
        n_threads, providers = self._settings.n_threads, self._settings.providers
        ops = list(correctable_nodes(model))
        return measure_layer_means(model, ops, self._feeds, n_threads=n_threads, providers=providers)

    def _corrections(self, variant: Variant) -> tuple[WeightCorrection, FastBiasCorrection]:
        """Of the last variant only: they hold the model."""
        if self._correction is None or self._correction[0] is not variant:
            layers, means = FloatLayers(variant.model), self._means[variant.digest]
            self._correction = variant, (WeightCorrection(layers, means), FastBiasCorrection(layers, means))
        return self._correction[1]

    def _missing_shifts(self, candidate: Candidate, variant: Variant) -> tuple[Work, ...]:
        """The work for what a candidate's biases are corrected by; all else of it is known."""
        self._blocks()
        key = self._shifts_key(candidate, variant)
        if key in self._failed:
            raise TrialError(self._failed[key])
        if key in self._shifts:
            return ()
        needs = [*variant.solver.keys(without_variant(candidate))]
        if variant.recipes:
            needs += [work.key for work in self._statistics_works(variant)]
        names = {**dict(candidate.recipes), BIAS_CORRECTION: False}
        if names.get(WEIGHT_CORRECTION) is True or names.get(FAST_BIAS_CORRECTION) is True:
            needs.append(self._work("means", variant.recipes, variant.digest, 0).key)
        what = f"{BIAS_CORRECTION} of candidate {candidate.digest[:8]}"
        arguments = (Candidate.of(candidate.configs(), names),)
        return (Work("shifts", key, what, arguments, place=variant.digest, needs=tuple(needs)),)

    def _shifts_key(self, candidate: Candidate, variant: Variant) -> str:
        settings = self._settings
        built = f"{settings.weight_only_format}/{settings.accuracy_level}/{sorted(self._excluded)}"
        return _hash(f"shifts/{candidate.digest}/{variant.digest}/{self._digest_of_data()}/{built}")

    def _run_shifts(self, candidate: Candidate) -> Results:
        while works := self.missing(candidate):  # what this process has not been told
            for work in works:
                self.learn(work, self.run(work))
        model = self._made(variant_recipes(candidate)).model
        n_threads, providers = self._settings.n_threads, self._settings.providers
        done = correct_sequentially(
            self.blueprint(candidate), model, self._feeds, n_threads=n_threads, providers=providers
        )
        shifts = {str(i): shift for i, shift in enumerate(done.shifts.values())}
        told = np.array([f"{op}: {why}" for op, why in done.skipped.items()], dtype=np.str_)
        return {"names": np.array(list(done.shifts), dtype=np.str_), "skipped": told, **shifts}

    def _run_channels(self, recipes: Recipes, number: int) -> Results:
        before = tuple((r, v) for r, v in recipes if any(belongs(r, name) for name in ORDER[:number]))
        model = self._made(before).model
        tensors = find_pass(ORDER[number]).channel_tensors(model, dict(recipes))
        n_threads, providers = self._settings.n_threads, self._settings.providers
        return channels_as_arrays(
            measure_channels(model, tensors, self._feeds, n_threads=n_threads, providers=providers)
        )

    def _run_statistics(self, recipes: Recipes, number: int) -> Results:
        variant = self._made(recipes)
        if self._collector is None or self._collector[0] != variant.digest:
            self._collector = None  # frees the memory of its sessions
            self._collector = variant.digest, self._new_collector(variant.model)
        block = self._blocks()[number]
        return self._collector[1].collect(self._feeds[block.start : block.stop]).to_arrays()

    def _new_collector(self, model: ModelProto) -> Collector:
        settings = self._settings
        tensors = tensors_of_interest(model, settings.placement, settings.target)
        return Collector(model, tensors, n_threads=settings.n_threads, providers=settings.providers)

    def _learn_statistics(self, digest: str, number: int, part: Statistics) -> None:
        parts = self._parts.setdefault(digest, {})
        parts[number] = part
        if len(parts) == len(self._blocks()):
            merged = self._statistics[digest] = Statistics.merged([parts[i] for i in sorted(parts)])
            del self._parts[digest]
            for variant in self._variants.values():
                if variant.recipes and variant.digest == digest:
                    variant.ranges.use(merged)

    def _digest_of_data(self) -> str:
        """Over all calibration feeds."""
        if not self._data_digest:
            digest = hashlib.blake2b(digest_size=16)
            for feed in self._feeds:
                for name, array in sorted(feed.items()):
                    digest.update(f"{name}/{array.dtype.str}/{array.shape}/".encode())
                    digest.update(np.ascontiguousarray(array).tobytes())
            self._data_digest = digest.hexdigest()
        return self._data_digest

    def _blocks(self) -> list[range]:
        if not self._feeds:
            raise TrialError("the recipe needs calibration feeds, and there are none")
        return blocks(self._feeds, self._settings.block_samples)

    def _make(self, recipes: Recipes) -> Variant | Work:
        model = self._prepared.model
        report: list[str] = []
        skipped: dict[str, str] = {}
        for number, name in enumerate(ORDER):
            if not dict(recipes).get(name):
                continue
            channels = self._channels_for(model, recipes, number)
            if isinstance(channels, Work):
                return channels
            result = find_pass(name).apply(model, dict(recipes), channels)
            skipped |= {f"{name}: {place}": reason for place, reason in result.skipped.items()}
            if result.model is model:
                continue
            difference = largest_difference(model, result.model, self._feeds[:N_CHECKED])
            if difference > MOST_DIFFERENCE:
                skipped[name] = f"taken back: the outputs of the float model would differ by {difference:.2g}"
            else:
                model = result.model
                report += [f"{name}: {line}" for line in result.changed]
        self._tell([*report, *(f"{place}: left as it is: {why}" for place, why in skipped.items())])
        if model is self._prepared.model:  # it has statistics already
            return replace(self._prepared, report=tuple(report), skipped=skipped)
        variant = self._variant(recipes, model, tuple(report), skipped, Ranges(lambda _: Statistics({})))
        if variant.digest in self._statistics:
            variant.ranges.use(self._statistics[variant.digest])
        return variant

    def _tell(self, lines: Sequence[str]) -> None:
        """Pass lines on that have not been before: variants and candidates have much in common."""
        for line in lines:
            if line not in self._told:
                self._told.add(line)
                self._settings.tell(line)

    def _channels_for(
        self, model: ModelProto, recipes: Recipes, number: int
    ) -> Mapping[str, ChannelStatistics] | Work:
        graph_pass = find_pass(ORDER[number])
        tensors = graph_pass.channel_tensors(model, dict(recipes))
        if not tensors:
            return {}
        digest = _hash(f"{model_digest(model)}/{sorted(tensors.items())}")
        work = self._work("channels", recipes, digest, number)
        if work.key in self._failed:
            raise TrialError(self._failed[work.key])
        if work.key in self._channels:
            return self._channels[work.key]
        if not self._feeds:
            raise TrialError(f"recipe {ORDER[number]} needs calibration feeds, and there are none")
        return work

    def _work(self, kind: str, recipes: Recipes, digest: str, number: int) -> Work:
        text = f"{kind}/{digest}/{self._digest_of_data()}/{number}/{self._settings.block_samples}"
        what = ", ".join(f"{name}={value}" for name, value in recipes)
        return Work(kind, _hash(text), f"{kind} for {what}", (recipes, number), cost=1.0, place=digest)

    def _variant(
        self,
        recipes: Recipes,
        model: ModelProto,
        report: tuple[str, ...],
        skipped: Mapping[str, str],
        ranges: Ranges,
    ) -> Variant:
        settings = self._settings
        nbits = settings.accuracy_level if settings.weight_only_format == "matmulnbits" else None
        builder = Builder(model, self._feeds, ranges, nbits, settings.shelf)
        builder.exclude(self._excluded)
        solver = LayerSolver(
            model, builder, self._feeds, settings, self._digest_of_data, self._solutions, self._kept
        )
        return Variant(recipes, model, report, skipped, ranges, builder, solver)


def _with_learned_shifts(blueprint: Blueprint, variant: Variant, candidate: Candidate) -> Blueprint:
    """Biases with what the solutions of layers add to them."""
    shifts = variant.solver.shifts(candidate)
    if not shifts:
        return blueprint
    layers = FloatLayers(variant.model)
    return shifted(blueprint, variant.model, {op: layers.alpha(op) * s for op, s in shifts.items()})


def _hash(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
