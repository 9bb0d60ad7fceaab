"""Finding the codes of layers: what has to be solved for a candidate, and solving it.

1. A layer's inputs come from the float model, or, with the option "sequential" of a weight-only scheme, from
   the candidate with every op before the layer already quantized and all others in float.
2. A solution depends on the variant, the calibration data, the layer, its scheme, and in the sequential case
   on how the ops before it are quantized: its key is a digest over these. Candidates that agree in them
   share it.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from onnx import ModelProto

from disttune.config.errors import TrialError
from disttune.config.schemes import OpConfig, Scheme
from disttune.config.weight_methods import WEIGHT_METHODS
from disttune.quantize.algorithms.layer import (
    Floats,
    JointAlgorithm,
    LayerInputs,
    LayerProblem,
    LayerSolution,
)
from disttune.quantize.algorithms.layout import LayerLayout
from disttune.quantize.algorithms.registry import find_layer_algorithm
from disttune.quantize.builder.build import Builder
from disttune.quantize.builder.constants import Solved
from disttune.quantize.built_layers import correctable_nodes
from disttune.quantize.engine import EngineSettings
from disttune.quantize.layer_measurements import Before, Feed, LayerMeasurements, digest_of, hash_of
from disttune.quantize.layers import Layer, has_layers
from disttune.quantize.statistics.kept_tensors import KeptTensors
from disttune.quantize.weights import QuantizedWeight
from disttune.quantize.work import Results, Work
from disttune.space.candidate import Candidate

_PLANS = 64  # of candidates, remembered
ELEMENTWISE = 350  # multiply-adds that take as long as all else that an iteration does to one weight
Configs = Mapping[str, OpConfig]


class _Solve(NamedTuple):
    """Layers that are solved together.

    Args:
        group: the layers.
        before: how the ops before them are quantized (rule 1).
        digest: over `before`.
        key: rule 2.
        needs: keys of the solutions of ops before.
        siblings: ops with the same ones before them, in the sequential case.
    """

    group: tuple[Layer, ...]
    before: Before
    digest: str
    key: str
    needs: tuple[str, ...]
    siblings: tuple[str, ...] = ()


class LayerSolver:
    """The layers of one variant.

    Args:
        model: the float model.
        builder: of the variant; solutions go to its constants.
        feeds: all calibration feeds.
        settings: of the engine.
        data_digest: gives a digest over the calibration feeds.
        solutions: those that have been learnt, of all variants, by key, or why there is none.
        kept: tensors that runs of all variants start from.
    """

    def __init__(
        self,
        model: ModelProto,
        builder: Builder,
        feeds: Sequence[Feed],
        settings: EngineSettings,
        data_digest: Callable[[], str],
        solutions: Mapping[str, Results | str],
        kept: KeptTensors,
    ):
        self._builder = builder
        self._data_digest = data_digest
        self._solutions = solutions
        self._measurements = LayerMeasurements(model, builder, feeds, settings, kept)
        self._plans: OrderedDict[str, list[_Solve]] = OrderedDict()
        self._used: dict[Layer, str] = {}
        self._correctable = frozenset(correctable_nodes(model))

    @property
    def model_digest(self) -> str:
        """Of the float model."""
        return self._measurements.model_digest

    def missing(self, candidate: Candidate, recipes: object) -> tuple[Work, ...]:
        """Works for layers of a candidate that can be solved now; solutions that are known reach the builder.

        Args:
            candidate: without recipes of its variant.
            recipes: of the variant, for `run`.
        Raises:
            TrialError: a layer cannot be solved.
        """
        works = []
        for solve in self._plan(candidate):
            group, key = solve.group, solve.key
            solution = self._solutions.get(key)
            if isinstance(solution, str):
                raise TrialError(solution)
            if solution is not None:
                self._use(group, key, solution)
            elif all(need in self._solutions for need in solve.needs):
                works.append(self._work(solve, recipes))
        return tuple(works)

    def keys(self, candidate: Candidate) -> tuple[str, ...]:
        """Of all solutions that a candidate is built with."""
        return tuple(solve.key for solve in self._plan(candidate))

    def shifts(self, candidate: Candidate) -> dict[str, Floats]:
        """What the solutions of a candidate add to the outputs of ops, before any alpha of a Gemm."""
        found: dict[str, Floats] = {}
        for solve in self._plan(candidate):
            solution = self._solutions[solve.key]
            assert not isinstance(solution, str)
            for i, layer in enumerate(solve.group):
                if (name := f"{i}/shift") in solution:
                    found |= dict.fromkeys(layer.readers, solution[name])
        return found

    def _plan(self, candidate: Candidate) -> list[_Solve]:
        """Everything that has to be solved for a candidate, in an order in which it can be."""
        if candidate.digest not in self._plans:
            self._plans[candidate.digest] = self._new_plan(candidate)
            while len(self._plans) > _PLANS:
                self._plans.popitem(last=False)
        return self._plans[candidate.digest]

    def _new_plan(self, candidate: Candidate) -> list[_Solve]:
        candidate = self._builder.reduced(candidate)  # what comes before a layer is built without recipes
        configs = {op: c for op, c in candidate.configs().items() if c.quantized}
        if not has_layers(configs.values()):
            return []
        keys: dict[str, str] = {}  # by op
        siblings: dict[str, list[str]] = {}
        solves = []
        for group in _groups(self._builder.layers(candidate)):
            ops = [op for layer in group for op in layer.readers]
            before = self._before(group, configs)
            digest = digest_of(before)
            needs = tuple(dict.fromkeys(keys[op] for op, _ in before if op in keys))
            key = self._key(group, digest)
            keys |= dict.fromkeys(ops, key)
            siblings.setdefault(digest, []).extend(ops)
            solves.append(_Solve(group, before, digest, key, needs))
        return [s._replace(siblings=tuple(siblings[s.digest])) if s.before else s for s in solves]

    def run(self, work: Work) -> Results:
        """Solve the layers of a work.

        Raises:
            TrialError: names the layer and the cause.
        """
        recipes, group, before, siblings = work.arguments
        keys: dict[str, str] = {}
        if before:  # the builder may hold other solutions of them, or none where nobody asked for this one
            candidate = Candidate.of(dict(before))
            self.missing(candidate, recipes)
            keys = {op: s.key for s in self._plan(candidate) for layer in s.group for op in layer.readers}
        problems = self._problems(group, before, siblings, keys)
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
                make = partial(self._weight, layer, parts)
                self._builder.use(layer, Solved(f"{key}/{i}", make), parts.get("input_scale"))
                self._used[layer] = key

    def _weight(self, layer: Layer, solution: Results) -> QuantizedWeight:
        layout = self._measurements.layout(layer.readers[0])
        return layout.quantized(_unpacked(solution), layer.scheme.scheme)

    def _before(self, group: Sequence[Layer], configs: Configs) -> Before:
        """Rule 1: the quantized ops that the inputs of a group come through, in graph order."""
        ops = [op for layer in group for op in layer.readers]
        is_sequential = group[0].uses_data and all(configs[op].approach == "weight_only" for op in ops)
        if not is_sequential or not group[0].scheme.scheme.option("sequential"):
            return ()
        reached = frozenset().union(*(self._measurements.ancestors[op] for op in ops)) - set(ops)
        return tuple((op, config) for op, config in configs.items() if op in reached)

    def _key(self, group: Sequence[Layer], before: str) -> str:
        layers = [
            (layer.weight, layer.readers, layer.scheme.axis, layer.scheme.scheme.to_dict()) for layer in group
        ]
        return hash_of([self.model_digest, self._data_digest() if group[0].uses_data else "", layers, before])

    def _work(self, solve: _Solve, recipes: object) -> Work:
        group = solve.group
        ops = [layer.readers[0] for layer in group]
        layouts = [self._measurements.layout(op) for op in ops]
        cost = sum(_cost(layer.scheme.scheme, y) for layer, y in zip(group, layouts, strict=True))
        place = solve.digest or str(self._measurements.place(ops[0]))
        return Work(
            "solve",
            solve.key,
            f"{group[0].method} of {ops[0]}" + (f" and {len(ops) - 1} more" if len(ops) > 1 else ""),
            (recipes, group, solve.before, solve.siblings),
            cost,
            place=f"{recipes}/{place}",
            needs=solve.needs,
        )

    def _problems(
        self, group: Sequence[Layer], before: Before, siblings: Sequence[str], keys: Mapping[str, str]
    ) -> list[LayerProblem]:
        ops = [op for layer in group for op in layer.readers]
        inputs = self._measurements.of(ops, before, siblings, keys) if group[0].uses_data else {}
        return [
            LayerProblem(
                layer.readers[0],
                self._measurements.layout(layer.readers[0]).weight(self._builder.array(layer.weight)),
                layer.scheme.scheme,
                _added([inputs[op] for op in layer.readers]) if inputs else None,
                all(op in self._correctable for op in layer.readers),
            )
            for layer in group
        ]


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
    more = {"input_scale": solution.input_scale, "shift": solution.shift}
    return arrays | {name: array for name, array in more.items() if array is not None}


def _unpacked(arrays: Results) -> LayerSolution:
    names, values = arrays["report_names"], arrays["report_values"]
    return LayerSolution(
        codes=arrays["codes"].astype(np.int32),
        scale=arrays["scale"],
        zero_point=arrays["zero_point"],
        input_scale=arrays.get("input_scale"),
        shift=arrays.get("shift"),
        report={str(name): float(value) for name, value in zip(names, values, strict=True)},
        history=tuple((int(iteration), float(loss)) for iteration, loss in arrays["history"]),
    )
