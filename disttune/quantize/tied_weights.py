"""Tied embeddings: a table that Gather reads and a MatMul too, mostly turned over by a Transpose.

onnxruntime's optimizer folds such a Transpose where it sees the values, and the MatMul then has a weight of
its own; where it does not (a large model), it is done here. So the two are split, each quantized or left in
float by itself, unless the optimization is switched off: they stay tied then, and the MatMul in float. Either
way it is told.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, TensorProto

from disttune.quantize.editing import GraphEditor, attribute

_LAYERS = ("Gemm", "MatMul")
_KEEP = 'recipes.graph_optimization_level = "DISABLE_ALL" keeps them tied, and {op} in float'


@dataclass(frozen=True, slots=True)
class _Tie:
    """A table, the op that looks up in it, and the output of the layer that reads it, too."""

    table: str
    embedding: str
    layer: str


def split_tied_weights(
    prepared: ModelProto, original: ModelProto, warn: Callable[[str], object], *, split: bool
) -> ModelProto:
    """The model with ties split; itself where there is nothing to do.

    Args:
        prepared: optimized.
        original: the same model before that: nobody has folded anything there.
        warn: called with a line for each tie.
        split: False leaves what is tied as it is.
    """
    ties = list(_ties(original))
    if not ties:
        return prepared
    editor = GraphEditor(prepared)
    has_changed = False
    for tie in ties:
        layer = editor.maker(tie.layer)
        if layer is None or layer.op_type not in _LAYERS:
            continue
        turn = editor.maker(layer.input[1])
        if split and turn is not None and _turns(turn.op_type, list(attribute(turn, "perm", [1, 0]))):
            if not editor.is_initializer(turn.input[0]):
                continue
            values = np.ascontiguousarray(editor.array(turn.input[0]).T)
            editor.set_input(layer, 1, editor.add_constant(f"{tie.table}_turned", values))
            if not editor.readers(turn.output[0]) and editor.is_free(turn.output[0]):
                editor.remove(turn)
            has_changed = True
        is_split = editor.is_initializer(layer.input[1])
        name = layer.name or layer.output[0]
        warn(
            f'weight "{tie.table}" is tied: {tie.embedding} and {name} read it. '
            + (
                f"They are split: each is quantized, or left in float, by itself ({_KEEP.format(op=name)})"
                if is_split
                else f"They stay tied, and {name} stays in float"
            )
        )
    return editor.finish() if has_changed else prepared


def _ties(model: ModelProto) -> Iterator[_Tie]:
    graph = model.graph
    tables = {t.name for t in graph.initializer if t.data_type == TensorProto.FLOAT and len(t.dims) == 2}
    embeddings = {n.input[0]: n.name or n.output[0] for n in graph.node if n.op_type == "Gather"}
    turned = {
        n.output[0]: n.input[0]
        for n in graph.node
        if n.input
        and n.input[0] in tables
        and _turns(n.op_type, next((list(a.ints) for a in n.attribute if a.name == "perm"), [1, 0]))
    }
    for node in graph.node:
        if node.op_type in _LAYERS:
            table = turned.get(node.input[1], node.input[1])
            if table in tables and table in embeddings:
                yield _Tie(table, embeddings[table], node.output[0])


def _turns(op_type: str, permutation: list[int]) -> bool:
    return op_type == "Transpose" and permutation == [1, 0]
