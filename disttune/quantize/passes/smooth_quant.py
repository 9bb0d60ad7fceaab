"""SmoothQuant: outliers of activations go into the weights that read them, channel by channel.

1. Every MatMul and Gemm with a constant weight takes part, Conv with `smooth_quant_conv`. What reads the same
   tensor shares one scale s (see `smoothing_scales`): weights are multiplied by it, the tensor is divided.
2. Where nobody else reads the tensor, 1 / s goes into what makes it (see `channel_folding`); otherwise a Mul
   is put before these readers.
3. With `smooth_quant_scales_per_op` each reader has a scale of its own, and a Mul where there are several.

Source: Xiao et al. 2022 (arXiv:2211.10438). There only LayerNorm takes the factor.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
from onnx import ModelProto, NodeProto

from disttune.config.recipes import RECIPES, RecipeValue
from disttune.quantize.editing import GraphEditor
from disttune.quantize.linear import LINEAR_TYPES, Floats, Linear, read_linear
from disttune.quantize.passes.channel_folding import fold_factor
from disttune.quantize.passes.graph_pass import PassResult, register_pass
from disttune.quantize.passes.smoothing_scales import best_alpha, smoothing_scale
from disttune.quantize.statistics.channels import ChannelStatistics

ALPHA = "smooth_quant_alpha"
# Not for jobs: the engine says so to alpha "auto" where most weights of a candidate have one scale.
PER_TENSOR = "smooth_quant_per_tensor"
_Groups = dict[str, list[NodeProto]]


@register_pass("smooth_quant")
class SmoothQuant:
    """See the module."""

    def channel_tensors(self, model: ModelProto, recipes: Mapping[str, RecipeValue]) -> Mapping[str, int]:
        """What the ops of rule 1 read."""
        groups, _ = _groups(GraphEditor(model), recipes)
        return {tensor: 1 if nodes[0].op_type == "Conv" else -1 for tensor, nodes in groups.items()}

    def apply(
        self,
        model: ModelProto,
        recipes: Mapping[str, RecipeValue],
        channels: Mapping[str, ChannelStatistics],
    ) -> PassResult:
        """See `GraphPass.apply`."""
        editor = GraphEditor(model)
        groups, skipped = _groups(editor, recipes)
        smoother = _Smoother(editor, recipes)
        for tensor, nodes in groups.items():
            each = (
                [[node] for node in nodes] if recipes.get("smooth_quant_scales_per_op") is True else [nodes]
            )
            for together in each:
                smoother.smooth(tensor, together, channels[tensor])
        changed = tuple(smoother.changed)
        return PassResult(editor.finish() if changed else model, changed, skipped | smoother.skipped)


def _groups(editor: GraphEditor, recipes: Mapping[str, RecipeValue]) -> tuple[_Groups, dict[str, str]]:
    """Rule 1: ops by the tensor they read, in graph order; and why others take no part."""
    types = ("MatMul", "Gemm", "Conv") if recipes.get("smooth_quant_conv") is True else ("MatMul", "Gemm")
    groups: _Groups = defaultdict(list)
    skipped = {}
    for node in editor.nodes:
        if node.op_type not in LINEAR_TYPES:
            continue
        found = read_linear(editor, node) if node.op_type in types else f"{node.op_type} is not smoothed"
        if isinstance(found, str):
            skipped[node.name] = found
            continue
        tensor = node.input[0]
        if groups[tensor] and (groups[tensor][0].op_type == "Conv") != found.is_image:
            skipped[node.name] = f'a {groups[tensor][0].op_type} reads "{tensor}" along another axis'
        else:
            groups[tensor].append(node)
    return groups, skipped


class _Smoother:
    def __init__(self, editor: GraphEditor, recipes: Mapping[str, RecipeValue]):
        self.editor = editor
        self.alpha = recipes.get(ALPHA, RECIPES[ALPHA].default)
        self.per_tensor = recipes.get(PER_TENSOR) is True
        self.changed: list[str] = []
        self.skipped: dict[str, str] = {}

    def smooth(self, tensor: str, nodes: Sequence[NodeProto], statistics: ChannelStatistics) -> None:
        """Give a tensor and the ops that read it a common scale."""
        names = ", ".join(node.name for node in nodes)
        readers = [found for node in nodes if isinstance(found := read_linear(self.editor, node), Linear)]
        scale, alpha = self._scale(statistics, readers)
        if scale is None or (scale == 1).all():
            reason = "no smoothing is best" if scale is None else "its channels are alike, or all zero"
            self.skipped |= {node.name: reason for node in nodes}
            return
        place = self._divide(tensor, nodes, readers[0], scale)
        for reader in readers:
            reader.scale_inputs(scale)
            reader.store()
        self.changed.append(
            f"{names}: alpha {alpha:g}, scales {scale.min():.3g} to {scale.max():.3g}, {place}"
        )

    def _scale(self, statistics: ChannelStatistics, readers: Sequence[Linear]) -> tuple[Floats | None, float]:
        if self.alpha == "auto":
            alpha = best_alpha(statistics, readers, per_tensor=self.per_tensor)
        else:
            alpha = float(self.alpha)
        if alpha is None:
            return None, 0.0
        weight_max = np.maximum.reduce([reader.input_max() for reader in readers])
        return smoothing_scale(statistics.absmax, weight_max, alpha), alpha

    def _divide(self, tensor: str, nodes: Sequence[NodeProto], reader: Linear, scale: Floats) -> str:
        """Rule 2; says where the factor went."""
        n_dimensions = len(self.editor.shape(reader.node.input[1])) - 2 if reader.is_image else 0
        factor = (1 / scale).reshape(-1, *[1] * n_dimensions)
        own = {node.name for node in nodes}
        others = [node for node in self.editor.readers(tensor) if node.name not in own]
        if not others and len(self.editor.readers(tensor)) == len(nodes):
            op = fold_factor(self.editor, tensor, factor)
            if op is not None:
                return f"folded into {op}"
        wanted = f"{tensor}_smoothed"
        constant = self.editor.add_constant(f"{wanted}_factor", factor.astype(np.float32))
        multiplied = self.editor.new_name(wanted)
        name = self.editor.add("Mul", [tensor, constant], multiplied, f"{wanted}_Mul").name
        for node in nodes:
            self.editor.set_input(node, 0, multiplied)
        return f"by Mul {name}"
