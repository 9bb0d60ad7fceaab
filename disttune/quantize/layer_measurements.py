"""What is known of the inputs of layers: measured together, and one stretch of the model after another.

1. Layers that come one after another in the graph are measured together, in at most `N_PLACES` places, those
   that read one tensor always; in the sequential case those with the same ops before them.
2. A run starts where the last one has ended: see `statistics.kept_tensors`.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property

import numpy as np
from onnx import ModelProto

from disttune.config.errors import TrialError
from disttune.config.schemes import OpConfig
from disttune.quantize.algorithms.layer import LayerInputs
from disttune.quantize.algorithms.layout import LINEAR_TYPES, LayerLayout, layout_of
from disttune.quantize.builder.build import Builder
from disttune.quantize.builder.writer import Blueprint
from disttune.quantize.digest import model_digest
from disttune.quantize.engine import EngineSettings
from disttune.quantize.statistics.kept_tensors import Chain, KeptTensors
from disttune.quantize.statistics.layer_inputs import measure_cross_inputs, measure_layer_inputs
from disttune.quantize.statistics.shapes import element_types
from disttune.quantize.topology import ancestors
from disttune.space.candidate import Candidate

N_PLACES = 8
SOURCES_OF_A_PLACE = 2  # a Gram matrix takes longer than running the model up to it
INPUTS_BYTES = 2**29  # of Gram matrices kept in a process
Before = tuple[tuple[str, OpConfig], ...]
Feed = Mapping[str, np.ndarray]


class LayerMeasurements:
    """Inputs of the layers of one variant.

    Args:
        model: the float model.
        builder: of the variant.
        feeds: all calibration feeds.
        settings: of the engine.
        kept: tensors that runs of all variants start from.
    """

    def __init__(
        self,
        model: ModelProto,
        builder: Builder,
        feeds: Sequence[Feed],
        settings: EngineSettings,
        kept: KeptTensors,
    ):
        self._model = model
        self._builder = builder
        self._feeds = feeds
        self._settings = settings
        self._kept = kept
        self._inputs: OrderedDict[tuple[str, str], LayerInputs] = OrderedDict()
        self._layouts: dict[str, LayerLayout] = {}

    @cached_property
    def model_digest(self) -> str:
        """Of the float model."""
        return model_digest(self._model)

    @cached_property
    def ancestors(self) -> dict[str, frozenset[str]]:
        """Names of all nodes before each node."""
        return ancestors(self._model.graph)

    def layout(self, op: str) -> LayerLayout:
        """Of an op with a layer."""
        if op not in self._layouts:
            node = self._builder.node(op)
            self._layouts[op] = layout_of(node.message, self._builder.shape(node.inputs[1]))
        return self._layouts[op]

    def place(self, op: str) -> int:
        """Where in the graph an op is: those of one place are measured together."""
        sources = self._sources
        n_places = min(N_PLACES, -(-len(sources) // SOURCES_OF_A_PLACE))
        return sources[self._builder.node(op).inputs[0]] * n_places // len(sources)

    def of(
        self, ops: Sequence[str], before: Before, siblings: Sequence[str], keys: Mapping[str, str]
    ) -> dict[str, LayerInputs]:
        """What is known of the inputs of ops; what has to be measured is, with that of others of their place.

        Args:
            ops: names.
            before: how the ops before them are quantized, all others being in float.
            siblings: all ops with the same ones before them.
            keys: of the solutions of ops before them.
        Raises:
            TrialError: there is nothing to be measured, or it cannot be.
        """
        if not self._feeds:
            raise TrialError(f"op {ops[0]}: its method needs calibration feeds, and there are none")
        text = digest_of(before)
        if any((text, op) not in self._inputs for op in ops):
            found = self._measured(ops, before, siblings, keys)
            self._inputs.update({(text, op): inputs for op, inputs in found.items()})
        needed = {op: self._inputs[text, op] for op in ops}
        for key in [(text, op) for op in ops]:
            self._inputs.move_to_end(key)
        while _n_bytes(self._inputs.values()) > INPUTS_BYTES:
            self._inputs.popitem(last=False)
        return needed

    def _measured(
        self, ops: Sequence[str], before: Before, siblings: Sequence[str], keys: Mapping[str, str]
    ) -> dict[str, LayerInputs]:
        n_threads, providers = self._settings.n_threads, self._settings.providers
        if not before:
            return measure_layer_inputs(
                self._model,
                self._as_many_as_fit(ops, self._neighbours(ops)),
                self._feeds,
                n_threads=n_threads,
                providers=providers,
                chain=self._float_chain,
            )
        blueprint = self._builder.blueprint(Candidate.of(dict(before)))
        return measure_cross_inputs(
            self._model,
            blueprint,
            self._as_many_as_fit(ops, siblings),
            self._feeds,
            n_threads=n_threads,
            providers=providers,
            chains=(self._float_chain, self._chain(blueprint, before, keys)),
        )

    @cached_property
    def _float_chain(self) -> Chain:
        """Runs of the float model."""
        digest = self.model_digest
        return Chain(self._kept, self._tensor_types, lambda name: f"{digest} {name}")

    def _chain(self, blueprint: Blueprint, before: Before, keys: Mapping[str, str]) -> Chain:
        """Runs of models that are quantized as this one, as far as a tensor depends on it."""
        texts = {op: (text, keys.get(op, "")) for (op, _), text in zip(before, texts_of(before), strict=True)}
        start = [self.model_digest, str(blueprint.skeleton.opset_import)]
        of_ops: dict[str, str] = {}

        def key(name: str) -> str | None:
            op = self._makers.get(name)
            if op is None:
                return None
            if op not in of_ops:
                reached = self.ancestors[op] | {op}
                of_ops[op] = hash_of([start, [(o, text) for o, text in texts.items() if o in reached]])
            return f"{of_ops[op]} {name}"

        return Chain(self._kept, self._tensor_types, key)

    @cached_property
    def _makers(self) -> dict[str, str]:
        """Names of the nodes that make the tensors of the float model."""
        return {name: node.name for node in self._model.graph.node for name in node.output if name}

    @cached_property
    def _tensor_types(self) -> dict[str, int]:
        return element_types(self._model)

    def _neighbours(self, ops: Sequence[str]) -> list[str]:
        """Ops of the same places."""
        places = {self.place(op) for op in ops}
        return [op for op in self._linear_ops if self.place(op) in places]

    def _as_many_as_fit(self, ops: Sequence[str], others: Sequence[str]) -> list[str]:
        """The ops, and others as long as what is measured may be kept."""
        found = list(dict.fromkeys(ops))
        n_bytes = sum(map(self._gram_bytes, found))
        for op in others:
            if op not in found:
                n_bytes += self._gram_bytes(op)
                if n_bytes > INPUTS_BYTES // 2:
                    break
                found.append(op)
        return found

    def _gram_bytes(self, op: str) -> int:
        layout = self.layout(op)
        return 8 * layout.n_parts * layout.n_inputs * layout.n_inputs

    @cached_property
    def _linear_ops(self) -> list[str]:
        """Ops that have a layer, in graph order."""
        found = []
        for node in self._builder.nodes:
            if node.op_type in LINEAR_TYPES and 1 in node.float_constants:
                try:
                    self.layout(node.name)
                except TrialError:
                    continue
                found.append(node.name)
        return found

    @cached_property
    def _sources(self) -> dict[str, int]:
        """Tensors that layers read, numbered in graph order."""
        tensors = dict.fromkeys(self._builder.node(op).inputs[0] for op in self._linear_ops)
        return {tensor: number for number, tensor in enumerate(tensors)}


def digest_of(before: Before) -> str:
    """Over the configs of ops; "" of none."""
    return hash_of([[op for op, _ in before], texts_of(before)]) if before else ""


def texts_of(before: Before) -> list[str]:
    """The configs as text: objects are known by their identity, because options 1 and True are equal."""
    texts: dict[int, str] = {}
    for _, config in before:
        if id(config) not in texts:
            texts[id(config)] = json.dumps(config.to_dict())
    return [texts[id(config)] for _, config in before]


def hash_of(plain: object) -> str:
    """Over what JSON has."""
    return hashlib.blake2b(json.dumps(plain).encode(), digest_size=16).hexdigest()


def _n_bytes(inputs: Iterable[LayerInputs]) -> int:
    """Of all of them; some are the same object."""
    different = {id(i): i for i in inputs}.values()
    return sum(i.gram.nbytes + (0 if i.cross is None else i.cross.nbytes) for i in different)
