"""Finding the codes of layers: what has to be solved for a candidate, and solving it.

1. A layer's inputs come from the float model, or, with the option "sequential" of a weight-only scheme, from
   the candidate with every op before the layer already quantized and all others in float.
2. A solution depends on the variant, the calibration data, the layer, its scheme, and in the sequential case
   on how the ops before it are quantized: its key is a digest over these. Candidates that agree in them
   share it.
3. Layers that come one after another in the graph are measured together, in at most `N_PLACES` places, those
   that read one tensor always; in the sequential case those with the same ops before them.
"""

import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from onnx import ModelProto

from disttune.config.errors import TrialError
from disttune.config.schemes import OpConfig, Scheme
from disttune.config.weight_methods import WEIGHT_METHODS
from disttune.quantize.algorithms.layer import JointAlgorithm, LayerInputs, LayerProblem, LayerSolution
from disttune.quantize.algorithms.layout import LINEAR_TYPES, LayerLayout, layout_of
from disttune.quantize.algorithms.registry import find_layer_algorithm
from disttune.quantize.builder.build import Builder
from disttune.quantize.digest import model_digest
from disttune.quantize.engine import EngineSettings
from disttune.quantize.layers import Layer, has_layers
from disttune.quantize.statistics.layer_inputs import measure_cross_inputs, measure_layer_inputs
from disttune.quantize.topology import ancestors
from disttune.quantize.work import Results, Work
from disttune.space.candidate import Candidate

N_PLACES = 8
SOURCES_OF_A_PLACE = 2  # a Gram matrix takes longer than running the model up to it
ELEMENTWISE = 350  # multiply-adds that take as long as all else that an iteration does to one weight
INPUTS_BYTES = 2**29  # of Gram matrices kept in a process
Configs = Mapping[str, OpConfig]
Before = tuple[tuple[str, OpConfig], ...]
Feed = Mapping[str, np.ndarray]


class LayerSolver:
    """The layers of one variant.

    Args:
        model: the float model.
        builder: of the variant; solutions go to its constants.
        feeds: all calibration feeds.
        settings: of the engine.
        data_digest: gives a digest over the calibration feeds.
        solutions: those that have been learnt, of all variants, by key, or why there is none.
    """

    def __init__(
        self,
        model: ModelProto,
        builder: Builder,
        feeds: Sequence[Feed],
        settings: EngineSettings,
        data_digest: Callable[[], str],
        solutions: Mapping[str, Results | str],
    ):
        self._model = model
        self._builder = builder
        self._feeds = feeds
        self._settings = settings
        self._data_digest = data_digest
        self._solutions = solutions
        self._inputs: OrderedDict[tuple[str, str], LayerInputs] = OrderedDict()
        self._layouts: dict[str, LayerLayout] = {}
        self._used: dict[Layer, str] = {}

    @cached_property
    def model_digest(self) -> str:
        """Of the float model."""
        return model_digest(self._model)

    def missing(self, candidate: Candidate, recipes: object) -> tuple[Work, ...]:
        """Works for layers of a candidate that can be solved now; solutions that are known reach the builder.

        Args:
            candidate: without recipes of its variant.
            recipes: of the variant, for `run`.
        Raises:
            TrialError: a layer cannot be solved.
        """
        candidate = self._builder.reduced(candidate)  # what comes before a layer is built without recipes
        configs = {op: c for op, c in candidate.configs().items() if c.quantized}
        if not has_layers(configs.values()):
            return ()
        keys: dict[str, str] = {}  # by op
        works = []
        groups = [(group, self._before(group, configs)) for group in _groups(self._builder.layers(candidate))]
        siblings: dict[Before, list[str]] = {}
        for group, before in groups:
            siblings.setdefault(before, []).extend(op for layer in group for op in layer.readers)
        for group, before in groups:
            needs = tuple(dict.fromkeys(keys[op] for op, _ in before if op in keys))
            key = self._key(group, before)
            keys |= {op: key for layer in group for op in layer.readers}
            solution = self._solutions.get(key)
            if isinstance(solution, str):
                raise TrialError(solution)
            if solution is not None:
                self._use(group, key, solution)
            elif all(need in self._solutions for need in needs):
                together = tuple(siblings[before]) if before else ()
                works.append(self._work(key, group, before, needs, (recipes, group, before, together)))
        return tuple(works)

    def run(self, work: Work) -> Results:
        """Solve the layers of a work.

        Raises:
            TrialError: names the layer and the cause.
        """
        recipes, group, before, siblings = work.arguments
        if before:  # the builder may hold other solutions of them, or none where nobody asked for this one
            self.missing(Candidate.of(dict(before)), recipes)
        problems = self._problems(group, before, siblings)
        algorithm = find_layer_algorithm(group[0].method)
        if isinstance(algorithm, JointAlgorithm):
            solutions = algorithm.solve_together(problems)
        else:
            solutions = [algorithm.solve(problem) for problem in problems]
        arrays: dict[str, Any] = {}
        for i, solution in enumerate(solutions):
            arrays |= {f"{i}/{name}": array for name, array in _packed(solution).items()}
        return arrays

    def _use(self, group: Sequence[Layer], key: str, arrays: Results) -> None:
        """Rule 2: a layer has the solution of its key, whichever the builder had before."""
        for i, layer in enumerate(group):
            if self._used.get(layer) != key:
                parts = {n.removeprefix(f"{i}/"): a for n, a in arrays.items() if n.startswith(f"{i}/")}
                solution = _unpacked(parts)
                weight = self._layout(layer).quantized(solution, layer.scheme.scheme)
                self._builder.use(layer, weight, solution.input_scale)
                self._used[layer] = key

    def _before(self, group: Sequence[Layer], configs: Configs) -> Before:
        """Rule 1: the quantized ops that the inputs of a group come through, in graph order."""
        ops = [op for layer in group for op in layer.readers]
        is_sequential = group[0].uses_data and all(configs[op].approach == "weight_only" for op in ops)
        if not is_sequential or not group[0].scheme.scheme.option("sequential"):
            return ()
        reached = frozenset().union(*(self._ancestors[op] for op in ops)) - set(ops)
        return tuple((op, config) for op, config in configs.items() if op in reached)

    def _key(self, group: Sequence[Layer], before: Before) -> str:
        layers = [
            (layer.weight, layer.readers, layer.scheme.axis, layer.scheme.scheme.to_dict()) for layer in group
        ]
        return _hash(
            [self.model_digest, self._data_digest() if group[0].uses_data else "", layers, _plain(before)]
        )

    def _work(
        self,
        key: str,
        group: Sequence[Layer],
        before: Before,
        needs: tuple[str, ...],
        arguments: tuple[Any, ...],
    ) -> Work:
        ops = [layer.readers[0] for layer in group]
        layouts = [self._layout(layer) for layer in group]
        cost = sum(_cost(layer.scheme.scheme, y) for layer, y in zip(group, layouts, strict=True))
        place = _hash(_plain(before)) if before else str(self._place(ops[0]))
        return Work(
            "solve",
            key,
            f"{group[0].method} of {ops[0]}" + (f" and {len(ops) - 1} more" if len(ops) > 1 else ""),
            arguments,
            cost,
            place=f"{arguments[0]}/{place}",
            needs=needs,
        )

    def _problems(
        self, group: Sequence[Layer], before: Before, siblings: Sequence[str]
    ) -> list[LayerProblem]:
        ops = [op for layer in group for op in layer.readers]
        inputs = self._inputs_of(ops, before, siblings) if group[0].uses_data else {}
        return [
            LayerProblem(
                layer.readers[0],
                self._layout(layer).weight(self._builder.array(layer.weight)),
                layer.scheme.scheme,
                _added([inputs[op] for op in layer.readers]) if inputs else None,
            )
            for layer in group
        ]

    def _inputs_of(
        self, ops: Sequence[str], before: Before, siblings: Sequence[str]
    ) -> dict[str, LayerInputs]:
        """Rule 3: what is known of the inputs of ops, measured with that of others of their place."""
        if not self._feeds:
            raise TrialError(f"op {ops[0]}: its method needs calibration feeds, and there are none")
        text = _hash(_plain(before)) if before else ""
        if any((text, op) not in self._inputs for op in ops):
            n_threads, providers = self._settings.n_threads, self._settings.providers
            if before:
                blueprint = self._builder.blueprint(Candidate.of(dict(before)))
                found = measure_cross_inputs(
                    self._model,
                    blueprint.model(),
                    self._as_many_as_fit(ops, siblings),
                    self._feeds,
                    n_threads=n_threads,
                    providers=providers,
                )
            else:
                found = measure_layer_inputs(
                    self._model,
                    self._as_many_as_fit(ops, self._neighbours(ops)),
                    self._feeds,
                    n_threads=n_threads,
                    providers=providers,
                )
            self._inputs.update({(text, op): inputs for op, inputs in found.items()})
        needed = {op: self._inputs[text, op] for op in ops}
        for key in [(text, op) for op in ops]:
            self._inputs.move_to_end(key)
        while _n_bytes(self._inputs.values()) > INPUTS_BYTES:
            self._inputs.popitem(last=False)
        return needed

    def _neighbours(self, ops: Sequence[str]) -> list[str]:
        """Ops of the same places."""
        places = {self._place(op) for op in ops}
        return [op for op in self._linear_ops if self._place(op) in places]

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

    def _place(self, op: str) -> int:
        sources = self._sources
        n_places = min(N_PLACES, -(-len(sources) // SOURCES_OF_A_PLACE))
        return sources[self._builder.node(op).inputs[0]] * n_places // len(sources)

    def _gram_bytes(self, op: str) -> int:
        layout = self._layout_of_op(op)
        return 8 * layout.n_parts * layout.n_inputs * layout.n_inputs

    def _layout(self, layer: Layer) -> LayerLayout:
        return self._layout_of_op(layer.readers[0])

    def _layout_of_op(self, op: str) -> LayerLayout:
        if op not in self._layouts:
            node = self._builder.node(op)
            self._layouts[op] = layout_of(node.message, self._builder.shape(node.inputs[1]))
        return self._layouts[op]

    @cached_property
    def _linear_ops(self) -> list[str]:
        """Ops that have a layer, in graph order."""
        found = []
        for node in self._builder.nodes:
            if node.op_type in LINEAR_TYPES and 1 in node.float_constants:
                try:
                    self._layout_of_op(node.name)
                except TrialError:
                    continue
                found.append(node.name)
        return found

    @cached_property
    def _sources(self) -> dict[str, int]:
        """Tensors that layers read, numbered in graph order."""
        tensors = dict.fromkeys(self._builder.node(op).inputs[0] for op in self._linear_ops)
        return {tensor: number for number, tensor in enumerate(tensors)}

    @cached_property
    def _ancestors(self) -> dict[str, frozenset[str]]:
        """Names of all nodes before each node."""
        return ancestors(self._model.graph)


def _cost(scheme: Scheme, layout: LayerLayout) -> float:
    """Multiply-adds: of an inverse and one product with the Gram matrix, or of one in each iteration."""
    n_rows, n_columns = layout.n_inputs, layout.n_outputs
    if (method := WEIGHT_METHODS[scheme.method]).uses_data and "iterations" in method.options:
        each = n_rows + ELEMENTWISE
        return float(layout.n_parts * n_rows * n_columns * each) * float(scheme.option("iterations"))
    return float(layout.n_parts * n_rows**2 * (n_rows + n_columns))


def _groups(layers: Sequence[Layer]) -> list[tuple[Layer, ...]]:
    """Layers that are solved together, in the order of the first of each."""
    groups: dict[tuple[object, ...], list[Layer]] = {}
    for layer in layers:
        joint = layer.source and isinstance(find_layer_algorithm(layer.method), JointAlgorithm)
        key = (layer.source, layer.scheme.scheme) if joint else (layer,)
        groups.setdefault(key, []).append(layer)
    return [tuple(group) for group in groups.values()]


def _added(inputs: Sequence[LayerInputs]) -> LayerInputs:
    """Inputs of several readers of one weight, as if they came one after another."""
    first, *others = inputs
    for other in others:
        first = LayerInputs(
            first.n_rows + other.n_rows,
            first.gram + other.gram,
            first.total + other.total,
            first.absolute + other.absolute,
            None if first.cross is None or other.cross is None else first.cross + other.cross,
        )
    return first


def _n_bytes(inputs: Iterable[LayerInputs]) -> int:
    """Of all of them; some are the same object."""
    different = {id(i): i for i in inputs}.values()
    return sum(i.gram.nbytes + (0 if i.cross is None else i.cross.nbytes) for i in different)


def _plain(before: Before) -> list[tuple[str, dict[str, Any]]]:
    return [(op, config.to_dict()) for op, config in before]


def _hash(plain: object) -> str:
    return hashlib.blake2b(json.dumps(plain).encode(), digest_size=16).hexdigest()


def _packed(solution: LayerSolution) -> dict[str, Any]:
    least, most = int(solution.codes.min(initial=0)), int(solution.codes.max(initial=0))
    dtype = np.promote_types(np.min_scalar_type(least), np.min_scalar_type(most))
    arrays: dict[str, Any] = {
        "codes": solution.codes.astype(dtype),
        "scale": solution.scale,
        "zero_point": solution.zero_point,
        "report_names": np.array(list(solution.report), dtype=np.str_),
        "report_values": np.array(list(solution.report.values()), dtype=np.float64),
        "history": np.array(solution.history, dtype=np.float64).reshape(-1, 2),
    }
    return arrays if solution.input_scale is None else {**arrays, "input_scale": solution.input_scale}


def _unpacked(arrays: Results) -> LayerSolution:
    names, values = arrays["report_names"], arrays["report_values"]
    return LayerSolution(
        codes=arrays["codes"].astype(np.int32),
        scale=arrays["scale"],
        zero_point=arrays["zero_point"],
        input_scale=arrays.get("input_scale"),
        report={str(name): float(value) for name, value in zip(names, values, strict=True)},
        history=tuple((int(iteration), float(loss)) for iteration, loss in arrays["history"]),
    )
