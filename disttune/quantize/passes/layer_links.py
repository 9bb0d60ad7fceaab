"""Linear ops that follow each other with nothing between them that minds a positive factor per channel.

A link runs from the outputs of one op to all ops that read them:
1. Between them may stand Relu, LeakyRelu, PRelu, Identity, poolings of images, one Flatten of an image, and
   Clip with constant bounds; f(s x) = s f(x) for s > 0, for Clip with its bounds times s.
2. Nobody else reads anything on the way, neither the user nor a graph inside a node.
3. Channels stay where they are: images to images, rows to rows, an image through Flatten to rows.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from onnx import NodeProto

from disttune.quantize.editing import GraphEditor, attribute
from disttune.quantize.linear import LINEAR_TYPES, Floats, Linear, read_linear

_ELEMENTWISE = ("Relu", "LeakyRelu", "PRelu", "Identity", "Clip")
_POOLS = ("MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")


@dataclass(frozen=True, eq=False)
class Link:
    """From an op to those that read its outputs.

    Args:
        first: its outputs are scaled.
        between: nodes on the way.
        seconds: their inputs are scaled.
        repeat: inputs of a second op for each output of the first: more than 1 behind a Flatten.
    """

    first: Linear
    between: tuple[NodeProto, ...]
    seconds: tuple[Linear, ...]
    repeat: int

    @property
    def name(self) -> str:
        return f"{self.first.node.name} and {', '.join(second.node.name for second in self.seconds)}"

    @property
    def clips(self) -> tuple[NodeProto, ...]:
        return tuple(node for node in self.between if node.op_type == "Clip")

    def is_image_at(self, node: NodeProto) -> bool:
        """Whether a node on the way reads an image."""
        before = self.between[: self.between.index(node)]
        return self.first.is_image and all(other.op_type != "Flatten" for other in before)

    def second_max(self) -> Floats:
        """Largest magnitude of the weights that read each output of the first op."""
        each = [second.input_max().reshape(-1, self.repeat).max(axis=1) for second in self.seconds]
        return np.asarray(np.maximum.reduce(each))

    def scale(self, factor: Floats) -> None:
        """Divide what the first op writes by a factor > 0 for each channel, and let the second undo it."""
        self.first.scale_outputs(1 / factor)
        for second in self.seconds:
            second.scale_inputs(np.repeat(factor, self.repeat))


def find_links(editor: GraphEditor) -> tuple[list[Link], dict[str, str]]:
    """All links in graph order, and for every other linear op the reason why none starts there."""
    read = {node.name: read_linear(editor, node) for node in editor.nodes if node.op_type in LINEAR_TYPES}
    linears = {name: found for name, found in read.items() if isinstance(found, Linear)}
    skipped = {name: reason for name, reason in read.items() if isinstance(reason, str)}
    links = []
    for name, first in linears.items():
        found = _follow(editor, first, linears)
        if isinstance(found, Link):
            links.append(found)
        else:
            skipped[name] = found
    return links, skipped


def bounds(editor: GraphEditor, clip: NodeProto) -> tuple[float, float] | None:
    """Lower and upper bound of a Clip; None unless they are constant."""
    found = []
    for i, default in ((1, -np.inf), (2, np.inf)):
        name = clip.input[i] if i < len(clip.input) else ""
        value = editor.value(name) if name else default
        if value is None:
            return None
        found.append(value)
    return found[0], found[1]


def _follow(editor: GraphEditor, first: Linear, linears: dict[str, Linear]) -> Link | str:
    tensor, is_image = first.output, first.is_image
    between: list[NodeProto] = []
    while True:
        if not editor.is_free(tensor):
            return f'"{tensor}" is an output of the graph, or read by a graph inside a node'
        readers = editor.readers(tensor)
        if readers and all(node.op_type in LINEAR_TYPES for node in readers):
            return _link(first, between, [linears.get(node.name) for node in readers], tensor, is_image)
        if len(readers) != 1:
            return f"read by {_listed(readers)}"
        node = readers[0]
        if not _is_passed(editor, node, tensor, is_image):
            return f"read by {_listed([node])}"
        is_image = is_image and node.op_type != "Flatten"
        between.append(node)
        tensor = node.output[0]


def _link(
    first: Linear, between: list[NodeProto], readers: list[Linear | None], tensor: str, is_image: bool
) -> Link | str:
    seconds = [reader for reader in readers if reader is not None]
    repeat = {second.n_inputs / first.n_outputs for second in seconds}
    if (
        len(seconds) < len(readers)
        or any(second.is_image != is_image or list(second.node.input).count(tensor) > 1 for second in seconds)
        or len(repeat) != 1
        or not min(repeat).is_integer()
        or (repeat != {1} and not any(node.op_type == "Flatten" for node in between))
    ):
        return "the op behind it has other channels, or no constant weight"
    return Link(first, tuple(between), tuple(seconds), int(repeat.pop()))


def _is_passed(editor: GraphEditor, node: NodeProto, tensor: str, is_image: bool) -> bool:
    """Rule 1."""
    if node.domain not in ("", "ai.onnx") or node.input[0] != tensor or len(node.output) != 1:
        return False
    if node.op_type == "Clip":
        return bounds(editor, node) is not None
    if node.op_type == "Flatten":
        return is_image and attribute(node, "axis", 1) == 1
    return node.op_type in _ELEMENTWISE or (is_image and node.op_type in _POOLS)


def _listed(nodes: Iterable[NodeProto]) -> str:
    return ", ".join(f"{node.op_type} {node.name}" for node in nodes) or "nobody"
