"""Ops that a candidate leaves in float16 or bfloat16: half weights, and casts around each run of such ops.

Rules:
1. An op reads and writes half tensors wherever its schema lets its float32 ones be half; what is float32 by
   schema (the scales of Resize) stays so. An op whose schema, at the model's opset, knows no such type stays
   in float32, and so does one with a constant that float16 cannot hold; both are told.
2. A constant is stored in half where nothing else reads it. Where something does it stays float32, with one
   cast for all half ops: two copies would make the model larger.
3. Between neighbours in one type there are no casts. Ops between them that only move or select values join
   them: rounding before or after such an op gives the same.
4. Each other tensor is cast once for all half ops that read it, and once for all others that read what a
   half op writes. The model's inputs and outputs stay float32.
5. Values are rounded to the nearest, ties to even; infinities are kept.

Source: the float16 converter of onnxruntime.transformers. What we do differently: constants that do not fit
are not clipped (there 1e5 becomes 1e4), tensors smaller than 1e-7 are rounded and not raised to it, and an
op that has no half kernel is left to onnxruntime, which casts around it.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import onnx
from onnx import ModelProto, NodeProto, TensorProto
from onnx.defs import OpSchema

from disttune.config.errors import TrialError
from disttune.config.schemes import HALF_DTYPES
from disttune.quantize.builder.writer import Blueprint, is_small
from disttune.quantize.editing import GraphEditor
from disttune.quantize.engine import EngineSettings
from disttune.quantize.half_tensors import HALF_TYPES, HalfTensors
from disttune.quantize.statistics.shapes import element_types
from disttune.quantize.topology import default_opset, subgraphs
from disttune.space.candidate import Candidate

LARGEST_FLOAT16 = 65504.0
# What rule 3 says; their float inputs are their data.
_SHAPING = ("Expand", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
_PICKING = ("Gather", "GatherElements", "GatherND", "Max", "MaxPool", "Min", "Relu", "Slice", "Split")
_MOVES = frozenset({*_SHAPING, *_PICKING, "Concat", "DepthToSpace", "Dropout", "SpaceToDepth", "Tile"})


class HalfOps:
    """Puts the ops of candidates into half precision that they, or the job, want there.

    Args:
        settings: of the engine.
    """

    def __init__(self, settings: EngineSettings):
        self._held = settings.half_ops
        self._tell = settings.tell
        self._tensors = HalfTensors(settings.shelf)
        self._told: set[str] = set()

    def types(self, candidate: Candidate) -> dict[str, str]:
        """Ops in half precision, to their type.

        Raises:
            TrialError: a quantized op names such a type: what is beside codes is float32.
        """
        types = dict(self._held)
        for op, config in candidate.configs().items():
            if config.quantized and config.float_type != "float32":
                raise TrialError(f"op {op}: beside codes the float type is float32, not {config.float_type}")
            if config.float_type in HALF_DTYPES:
                types[op] = config.float_type
        return types

    def in_model(self, model: ModelProto, types: Mapping[str, str]) -> ModelProto:
        """As `in_blueprint`, of a model with all its tensors."""
        return self.in_blueprint(Blueprint(model, {}), types).model() if types else model

    def in_blueprint(self, blueprint: Blueprint, types: Mapping[str, str]) -> Blueprint:
        """A model with these ops in half precision; tells once why one of them stays in float32.

        Args:
            blueprint: of the model; not changed.
            types: node name to type; names that the model lacks are left aside.
        """
        if not types:
            return blueprint
        writer = _HalfWriter(blueprint, types, self._tensors)
        writer.write()
        for op, why in writer.skipped.items():
            line = f"{types[op]}: {op} stays in float32: {why}"
            if line not in self._told:
                self._told.add(line)
                self._tell(line)
        return writer.finish()


@dataclass(frozen=True, slots=True)
class _Places:
    """Positions of a node's float32 inputs and outputs that its schema lets be of a half type."""

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


class _HalfWriter:
    def __init__(self, blueprint: Blueprint, types: Mapping[str, str], tensors: HalfTensors):
        self._blueprint = blueprint
        self._half_tensors = tensors
        self._editor = GraphEditor(blueprint.skeleton, blueprint.tensors)
        self._constants = {t.name: t for t in blueprint.skeleton.graph.initializer} | dict(blueprint.tensors)
        self._kinds = _types_of_tensors(blueprint)
        self._opset = default_opset(blueprint.skeleton)
        self._added: dict[str, TensorProto] = {}
        self._made: dict[tuple[str, str], str] = {}  # float32 tensor and half type to its half
        self._places: dict[str, _Places] = {}  # of the half ops
        self._types: dict[str, str] = {}
        self.skipped: dict[str, str] = {}
        for node in self._editor.nodes:
            if node.name in types:
                self._choose(node, types[node.name])
        for kind in dict.fromkeys(self._types.values()):
            self._join_moves(kind)

    def write(self) -> None:
        nodes = [node for node in self._editor.nodes if node.name in self._types]
        for node in nodes:  # rule 3: what they read may be half only once all halves are named
            self._write_outputs(node)
        for node in nodes:
            self._write_inputs(node)
        self._make()

    def finish(self) -> Blueprint:
        large = {name: t for name, t in self._added.items() if not is_small(t)}
        for name, tensor in self._added.items():
            if name not in large:
                self._editor.model.graph.initializer.add().CopyFrom(tensor)
                self._editor.model.graph.initializer[-1].name = name
        edited = self._blueprint.edited(self._editor)
        owner = (self._blueprint.owner, self._half_tensors)
        return replace(edited, tensors={**edited.tensors, **large}, owner=owner)

    def _choose(self, node: NodeProto, kind: str) -> None:
        """Rule 1."""
        places = self._float_places(node, kind)
        reason = self._why_not(node, kind, places)
        if reason:
            self.skipped[node.name] = reason
        else:
            self._types[node.name], self._places[node.name] = kind, places

    def _why_not(self, node: NodeProto, kind: str, places: "_Places") -> str:
        if any(True for _ in subgraphs(node)):
            return f"the graphs inside {node.op_type} are of float32"
        if not places.inputs and not places.outputs:
            return f"{node.op_type} has no {kind} at opset {self._opset}"
        for i in places.inputs:
            tensor = self._constants.get(node.input[i])
            if tensor is None or kind != "float16":
                continue
            largest = self._half_tensors.largest(tensor, self._is_shared(node.input[i]))
            if largest >= LARGEST_FLOAT16 + 16:  # from here on rounding gives infinity
                return f'"{node.input[i]}" has {largest:g}, beyond the {LARGEST_FLOAT16:g} of float16'
        return ""

    def _float_places(self, node: NodeProto, kind: str) -> "_Places":
        schema = _schema(node, self._opset)
        if schema is None:
            return _Places((), ())
        able = {
            constraint.type_param_str
            for constraint in schema.type_constraints
            if f"tensor({kind})" in constraint.allowed_type_strs
        }
        inputs = list(_with_types(node.input, schema.inputs))
        outputs = list(_with_types(node.output, schema.outputs))
        floats = {v for _, name, v in (*inputs, *outputs) if self._kinds.get(name) == TensorProto.FLOAT}
        chosen = able & floats
        return _Places(
            tuple(i for i, _, v in inputs if v in chosen), tuple(i for i, _, v in outputs if v in chosen)
        )

    def _join_moves(self, kind: str) -> None:
        """Rule 3: leave out of all that move values those that are not between half ops, until none is."""
        moves = {
            node.name: node
            for node in self._editor.nodes
            if node.op_type in _MOVES and node.name not in self._types
        }
        places = {name: self._float_places(node, kind) for name, node in moves.items()}
        ours = {name for name, t in self._types.items() if t == kind} | moves.keys()
        while outside := [n for n, node in moves.items() if not self._is_between(node, places[n], ours)]:
            for name in outside:
                del moves[name]
                ours.discard(name)
        for name in moves:
            self._types[name], self._places[name] = kind, places[name]

    def _is_between(self, node: NodeProto, places: "_Places", ours: Collection[str]) -> bool:
        if not places.inputs or not places.outputs:
            return False
        makers = [self._editor.maker(node.input[i]) for i in places.inputs]
        names = [node.output[i] for i in places.outputs]
        readers = [reader for name in names for reader in self._editor.readers(name)]
        return (
            all(maker is not None and maker.name in ours for maker in makers)
            and all(reader.name in ours for reader in readers)
            and all(map(self._editor.is_free, names))
        )

    def _write_outputs(self, node: NodeProto) -> None:
        for i in self._places[node.name].outputs:
            self._editor.rename_output(node, self._half(node.output[i], self._types[node.name]), i)

    def _write_inputs(self, node: NodeProto) -> None:
        for i in self._places[node.name].inputs:
            self._editor.set_input(node, i, self._half(node.input[i], self._types[node.name]))

    def _half(self, tensor: str, kind: str) -> str:
        """Name of a tensor's half."""
        if (tensor, kind) not in self._made:
            self._made[tensor, kind] = self._editor.new_name(f"{tensor}_{kind}")
        return self._made[tensor, kind]

    def _make(self) -> None:
        """Rules 2 and 4: what has been named."""
        for (name, kind), half in self._made.items():
            if self._editor.maker(half) is not None:
                if not self._is_unread(name):
                    self._cast(half, name, TensorProto.FLOAT)
            elif name in self._constants and self._is_unread(name):
                tensor = self._constants[name]
                self._added[half] = self._half_tensors.half(tensor, kind, self._is_shared(name))
            else:
                self._cast(name, half, HALF_TYPES[kind])

    def _is_shared(self, constant: str) -> bool:
        """Whether other models of the engine have the same message."""
        return constant in self._blueprint.tensors

    def _is_unread(self, tensor: str) -> bool:
        return not self._editor.readers(tensor) and self._editor.is_free(tensor)

    def _cast(self, source: str, result: str, to: int) -> None:
        self._editor.add("Cast", [source], result, f"{result}_Cast", {"to": to})


def _types_of_tensors(blueprint: Blueprint) -> dict[str, int]:
    """Type of every tensor of the model that has a known one."""
    light = ModelProto()
    light.CopyFrom(blueprint.skeleton)
    for name, tensor in blueprint.tensors.items():
        light.graph.initializer.add(name=name, data_type=tensor.data_type, dims=tensor.dims)
    kinds = {tensor.name: tensor.data_type for tensor in light.graph.initializer}
    return element_types(light) | kinds


def _schema(node: NodeProto, opset: int) -> OpSchema | None:
    if node.domain not in ("", "ai.onnx"):
        return None
    try:
        return onnx.defs.get_schema(node.op_type, opset)
    except onnx.defs.SchemaError:
        return None


def _with_types(
    names: Iterable[str], formal: Sequence[OpSchema.FormalParameter]
) -> Iterator[tuple[int, str, str]]:
    """Position, name and type variable of a node's tensors; the last formal one takes all that are left."""
    for i, name in enumerate(names):
        if name and formal:
            yield i, name, formal[min(i, len(formal) - 1)].type_str
