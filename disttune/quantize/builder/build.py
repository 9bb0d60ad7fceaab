"""One candidate into one model: checks, a plan of what gets codes, then the graph node by node.

A node is written by what its config says: dynamic ops by `DynamicWriter`; all others are copied, and read
and write what `StaticWriter` has put around them. No model is checked by onnx and no shape inferred: the
rules make valid models, and the tests check them.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from onnx import ModelProto

from disttune.config.errors import InternalError, TrialError
from disttune.config.recipes import RecipeValue, op_types_of
from disttune.config.schemes import (
    FLOAT8_DTYPES,
    METHODS,
    QUANTIZED_DTYPES,
    WEIGHT_DTYPES,
    OpConfig,
    Scheme,
)
from disttune.config.weight_methods import WEIGHT_METHODS
from disttune.quantize.builder.constants import ConstantStore, Solved
from disttune.quantize.builder.dynamic_ops import DynamicWriter, check_dynamic, stays_in_float
from disttune.quantize.builder.float_model import FloatModel, FloatNode
from disttune.quantize.builder.nbits import NBitsWriter, nbits_ops
from disttune.quantize.builder.opsets import Opsets
from disttune.quantize.builder.ranges import Ranges
from disttune.quantize.builder.static_ops import StaticPlan, StaticWriter
from disttune.quantize.builder.tensor_schemes import TensorSchemes, tensor_schemes
from disttune.quantize.builder.writer import Blueprint, ModelWriter
from disttune.quantize.counts import count_quantized
from disttune.quantize.engine import RESOLVED_RECIPES, WRITTEN_RECIPES
from disttune.quantize.layers import Layer, layers_of
from disttune.quantize.reduced_range import with_reduced_ranges
from disttune.quantize.sharing import mark_tensors, range_sources
from disttune.quantize.shelf import Shelf
from disttune.quantize.sources import WEIGHT_INPUTS
from disttune.space.candidate import Candidate

Configs = Mapping[str, OpConfig]


class Builder:
    """See `FastEngine`.

    Args:
        prepared: it is kept and must not change any more.
        feeds: the first one is tried when the model's opset has to be raised.
        ranges: of activations.
        nbits: accuracy level of the MatMulNBits nodes that weight-only ops become; None: they are written
            with DequantizeLinear.
        shelf: for codes of constants.
    """

    def __init__(
        self,
        prepared: ModelProto,
        feeds: Sequence[Mapping[str, np.ndarray]],
        ranges: Ranges,
        nbits: int | None = None,
        shelf: Shelf | None = None,
    ):
        self._accuracy_level = nbits
        self._opsets = Opsets(prepared, feeds)
        self._ranges = ranges
        self._excluded: frozenset[str] = frozenset()
        self._nodes = {node.name: node for node in self._opsets.lowest.nodes}
        self._types = {node.name: node.op_type for node in self._opsets.lowest.nodes}
        self._store = ConstantStore(self._opsets.lowest.constants, shelf)

    def exclude(self, tensors: Iterable[str]) -> None:
        """Leave these tensors in float, and no others, in what is built from now on."""
        self._excluded = frozenset(tensors)

    def reduced(self, candidate: Candidate) -> Candidate:
        """The candidate with weights as its recipe `reduce_range` says, without the recipe."""
        return with_reduced_ranges(candidate, self._types)

    def layers(self, candidate: Candidate) -> list[Layer]:
        """The layers of a candidate whose codes an algorithm has to find before it can be built.

        Raises:
            TrialError: an op has no form that an algorithm can fit.
        """
        candidate = self.reduced(candidate)
        configs = {op: config for op, config in candidate.configs().items() if config.quantized}
        model = self._opsets.lowest
        return layers_of(model, configs, tensor_schemes(model, candidate, configs))

    def use(self, layer: Layer, solved: Solved, input_scale: np.ndarray | None) -> None:
        """Take the codes of a layer, and what its inputs are divided by, instead of any before."""
        self._store.use(layer.weight, layer.scheme, solved, input_scale)

    def array(self, constant: str) -> np.ndarray:
        """Values of a float constant; not to be written to."""
        return self._store.array(constant)

    def shape(self, constant: str) -> tuple[int, ...]:
        """Shape of a constant of the float model."""
        return tuple(self._opsets.lowest.constants[constant].dims)

    @property
    def nodes(self) -> tuple[FloatNode, ...]:
        """Nodes of the float model, in graph order."""
        return self._opsets.lowest.nodes

    def node(self, op: str) -> FloatNode:
        """A node of the float model by name."""
        return self._nodes[op]

    def blueprint(self, candidate: Candidate) -> Blueprint:
        """The model of a candidate, its large tensors beside it.

        Raises:
            TrialError: it cannot be built; names the op and the cause.
        """
        candidate = self.reduced(candidate)
        configs = {op: config for op, config in candidate.configs().items() if config.quantized}
        recipes = dict(candidate.recipes)
        self._check(configs, recipes)
        nbits = self._nbits(configs)
        others = {op: config for op, config in configs.items() if op not in nbits}
        schemes = tensor_schemes(self._opsets.lowest, candidate, others)
        model, domain = self._opsets.for_schemes(schemes.all)
        if model is not self._opsets.lowest:
            schemes = tensor_schemes(model, candidate, others)
        plan = self._plan(model, others, schemes, recipes, domain)
        dynamic = {
            node.name: configs[node.name]
            for node in model.nodes
            if node.name in configs
            and configs[node.name].approach == "dynamic"
            and not stays_in_float(node)
            and self._excluded.isdisjoint(node.inputs)
        }
        blueprint = replace(self._write(model, plan, dynamic, nbits), owner=self)
        if (
            others
            and not nbits
            and not dynamic
            and not _computes_on_codes(model, configs, plan)
            and not count_quantized(blueprint.model())
        ):
            raise TrialError(f"the rules for Q and DQ leave all {len(configs)} ops of the candidate in float")
        return blueprint

    def _plan(
        self,
        model: FloatModel,
        configs: Configs,
        schemes: TensorSchemes,
        recipes: Mapping[str, RecipeValue],
        domain: str,
    ) -> StaticPlan:
        static = {op for op, c in configs.items() if c.approach == "static"}
        copies = schemes.copies.origins
        sources = range_sources(model, static, self._ranges.known(schemes.activations))
        marks = mark_tensors(
            model,
            {op for op in static if not self._is_float8_pool(op, configs[op])},
            schemes.copies,
            weights_only={op for op, c in configs.items() if c.approach == "weight_only"},
            ranged=sources,
            data_constants=schemes.constants,
            vectors={name for name, scheme in schemes.constants.items() if scheme.axis is not None},
            removes_activations=not any(map(_keeps_activations, schemes.activations.values())),
            quantizes_biases=recipes.get("quantize_bias") is not False,
            excluded=self._excluded | {copy for copy, of in copies.items() if of in self._excluded},
            float_outputs=op_types_of(recipes.get("optypes_to_exclude_output_quant", "")),
        )
        return StaticPlan(
            marks,
            schemes,
            sources,
            domain,
            recipes.get("add_qdq_pair_to_weight") is True,
            recipes.get("dedicated_qdq_pair") is True,
        )

    def _nbits(self, configs: Configs) -> Configs:
        """Configs of the ops that become MatMulNBits."""
        ops = frozenset() if self._accuracy_level is None else nbits_ops(self._opsets.lowest, configs)
        return {op: config for op, config in configs.items() if op in ops}

    def _write(self, model: FloatModel, plan: StaticPlan, dynamic: Configs, nbits: Configs) -> Blueprint:
        writer, copies = ModelWriter(model), plan.schemes.copies
        statics = StaticWriter(writer, self._store, self._ranges, plan, model)
        matrices = NBitsWriter(writer, self._store, copies, nbits, self._accuracy_level or 0)
        dynamics = DynamicWriter(writer, self._store, model, dynamic, copies)
        dynamics.prepare(plan.marks.tensors)
        for node in model.nodes:
            scale = matrices.input_scale(node) if node.name in nbits else None
            if scale is not None:
                statics.divide_inputs(copies.inputs_of(node)[1], scale)
        for node in model.nodes:
            if node.name in plan.marks.removed:
                continue
            reads, outputs = statics.inputs(node), statics.outputs(node)
            if node.name in dynamic:
                dynamics.write(node, reads, outputs)
            elif node.name in nbits:
                matrices.write(node, reads, outputs)
            else:
                copy = writer.copy_node(node, reads, outputs)
                if statics.drops_beta(node):
                    for attribute in copy.attribute:
                        if attribute.name == "beta":
                            attribute.f = 1.0
            statics.write_pairs(node)
        return writer.finish(copies.origins)

    def _is_float8_pool(self, op: str, config: OpConfig) -> bool:
        """MaxPool has no float8 kernel."""
        is_float8 = config.activation is not None and config.activation.dtype in FLOAT8_DTYPES
        return is_float8 and self._nodes[op].op_type == "MaxPool"

    def _check(self, configs: Configs, recipes: Mapping[str, RecipeValue]) -> None:
        for recipe, value in recipes.items():
            if recipe not in WRITTEN_RECIPES | RESOLVED_RECIPES and value:
                raise TrialError(
                    f'engine "fast" has no recipe {recipe}; it has {", ".join(sorted(WRITTEN_RECIPES))}'
                )
        for op, config in configs.items():
            if op not in self._nodes:
                raise InternalError(f"the candidate quantizes op {op}, which the model does not have")
            match config.approach:
                case "static":
                    _check_static(op, config)
                case "dynamic":
                    check_dynamic(self._nodes[op], config)
                case "weight_only":
                    _check_weight_only(self._nodes[op], config)
            if config.weight is not None:
                _check_scheme(op, config.weight, {**METHODS, **WEIGHT_METHODS})
            if config.activation is not None:
                _check_scheme(op, config.activation, METHODS)


def _check_static(op: str, config: OpConfig) -> None:
    weight, activation = config.weight, config.activation
    if activation is None:
        raise TrialError(f"op {op}: static quantization needs a scheme for the activations")
    if activation.dtype in WEIGHT_DTYPES:
        raise TrialError(
            f"op {op}: {activation.dtype} is a type of weights; ONNX quantizes no activation to it"
        )
    if activation.granularity != "per_tensor":
        raise TrialError(f"op {op}: activations are quantized per tensor, not {activation.granularity}")
    if weight is not None and activation.dtype == "int8" and weight.dtype == "uint8":
        raise TrialError(f"op {op}: onnxruntime does not do int8 activations with uint8 weights")


def _check_weight_only(node: FloatNode, config: OpConfig) -> None:
    positions = WEIGHT_INPUTS.get(node.op_type, ())
    if config.weight is None or not positions or any(i not in node.float_constants for i in positions):
        raise TrialError(
            f"op {node.name}: a {node.op_type} without a constant weight has no weight-only form"
        )


def _check_scheme(op: str, scheme: Scheme, known: Collection[str]) -> None:
    if scheme.dtype not in QUANTIZED_DTYPES:
        types = ", ".join(QUANTIZED_DTYPES)
        raise TrialError(f'op {op}: engine "fast" has no {scheme.dtype}; it has {types}')
    if scheme.method not in known:
        methods = ", ".join(sorted(known))
        raise TrialError(f'op {op}: engine "fast" has no method {scheme.method}; it has {methods}')


def _keeps_activations(scheme: Scheme) -> bool:
    """Whether codes of a tensor behind a Relu can mean less than zero."""
    return scheme.symmetric or scheme.method == "distribution" or scheme.dtype in FLOAT8_DTYPES


def _computes_on_codes(model: FloatModel, configs: Configs, plan: StaticPlan) -> bool:
    """Whether an op has a weight and data with codes, or a weight alone as it should; quick, not complete."""
    return any(
        _has_codes(node, configs[node.name], plan)
        for node in model.nodes
        if node.op_type in WEIGHT_INPUTS and node.name in configs
    )


def _has_codes(node: FloatNode, config: OpConfig, plan: StaticPlan) -> bool:
    inputs = plan.schemes.copies.inputs_of(node)
    with_codes = [i for i, name in enumerate(inputs[:2]) if name in plan.marks.tensors]
    if config.approach == "weight_only":
        return any(i in node.float_constants for i in with_codes)
    return with_codes == [0, 1] and 1 in node.float_constants
