"""Weight correction: scales of quantized weights that give back what rounding took from the outputs.

For each output n the scale is multiplied by r_n, the least squares fit of x V_n to x W_n; for one scale of
all outputs by one r. Codes stay, so a zero point has to be 0 (or what stands for it). E[x x^T] is taken from
mean and mean square of each input, as if inputs were independent; under it the error never rises. A bias
with int32 codes gets other codes for the new scale.

Source: the recipe of INC 2.6 restores mean and standard deviation of each channel of the weight and quantizes
again; here the outputs count, nothing is quantized again, and means are left to bias correction.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from disttune.quantize.builder.writer import Blueprint
from disttune.quantize.built_layers import BuiltLayer, FloatLayers
from disttune.quantize.editing import GraphEditor, attribute
from disttune.quantize.statistics.layer_means import LayerMeans

Floats = NDArray[np.float64]
_INT32_MAX = 2**31 - 1
_LARGEST = 2.0  # and 1 / 2: what is further off has other troubles


def scale_ratio(weight: Floats, quantized: Floats, means: LayerMeans, *, per_tensor: bool = False) -> Floats:
    """r of the module.

    Args:
        weight, quantized: W and V, shape (n_parts, K, N).
        means: of the input.
        per_tensor: one r for all outputs.
    Returns:
        Shape (n_parts * N,), all equal per tensor; 1 for outputs that are always 0.
    """
    variance = np.maximum(means.square - means.mean**2, 0)

    def product(a: Floats, b: Floats) -> Floats:
        apart = np.einsum("pk,pkn,pkn->pn", variance, a, b)
        together = [np.einsum("pk,pkn->pn", means.mean, x) for x in (a, b)]
        return np.asarray(apart + together[0] * together[1]).reshape(-1)

    above, below = product(quantized, weight), product(quantized, quantized)
    if per_tensor:
        above, below = np.full_like(above, above.sum()), np.full_like(below, below.sum())
    ratio = np.divide(above, below, out=np.ones_like(above), where=below > 0)
    return np.clip(ratio, 1 / _LARGEST, _LARGEST)


class WeightCorrection:
    """Corrects the models of one float model.

    Args:
        layers: of the float model.
        means: by op, see `measure_layer_means`.
    """

    def __init__(self, layers: FloatLayers, means: Mapping[str, LayerMeans]):
        self._layers = layers
        self._means = means
        self._known: dict[tuple[str, str], Floats] = {}

    def correct(self, blueprint: Blueprint) -> tuple[Blueprint, dict[str, str]]:
        """The model with other scales, and the ops that were left alone, with the reason."""
        built = GraphEditor(blueprint.skeleton, blueprint.tensors)
        found, skipped = self._layers.find(built, self._means)
        for op, layer in found.items():
            if reason := self._correct(built, op, layer):
                skipped[op] = reason
        return blueprint.edited(built), skipped

    def _correct(self, built: GraphEditor, op: str, layer: BuiltLayer) -> str:
        codes, scale = layer.arrays[:2]
        if not np.issubdtype(codes.dtype, np.integer) and codes.dtype.name not in ("int4", "uint4"):
            return f"its codes are {codes.dtype.name}"
        if not layer.is_packed:
            if len(layer.arrays) > 2 and layer.arrays[2].astype(np.int32).any():
                return "its zero points are not 0"
            if attribute(layer.maker, "block_size", 0):
                return "its scales are those of groups"
            if len(built.readers(layer.maker.output[0])) > 1:
                return "another op reads its weight"
        elif len(layer.arrays) > 2:
            return "its zero points are not the middle code"
        ratio = self._ratio(op, layer, per_tensor=scale.size == 1)
        position = 2 if layer.is_packed else 1
        if not layer.is_packed and (reason := _rescale_bias(built, layer, ratio, scale.size == 1)):
            return reason
        if layer.is_packed:
            scale = scale.reshape(ratio.size, -1) * ratio[:, np.newaxis]
        else:
            scale = scale * (ratio[0] if scale.size == 1 else ratio.reshape(scale.shape))
        built.set_constant(layer.maker, position, scale.reshape(layer.arrays[1].shape))
        return ""

    def _ratio(self, op: str, layer: BuiltLayer, *, per_tensor: bool) -> Floats:
        key = op, layer.digest
        if key not in self._known:
            weight, means = self._layers.weight(op), self._means[op]
            self._known[key] = scale_ratio(weight, layer.quantized(), means, per_tensor=per_tensor)
        return self._known[key]


def _rescale_bias(built: GraphEditor, layer: BuiltLayer, ratio: Floats, is_one: bool) -> str:
    """Give a bias with codes the scale of its op's new one; gives the reason when it cannot be done."""
    name = layer.node.input[2] if len(layer.node.input) > 2 else ""
    maker = built.maker(name) if name else None
    if maker is None or maker.op_type != "DequantizeLinear":
        return ""
    if len(built.readers(name)) > 1 or not all(built.is_initializer(n) for n in maker.input if n):
        return "another op reads its bias"
    codes, scale = built.array(maker.input[0]), built.array(maker.input[1])
    fitting = ratio[0] if is_one or scale.size == 1 else ratio.reshape(scale.shape)
    moved = np.rint(codes / fitting)
    if (np.abs(moved) > _INT32_MAX).any():
        return "its bias does not fit int32"
    wanted = f"{maker.input[0]}_rescaled"
    built.set_input(maker, 0, built.add_constant(wanted, moved.astype(np.int32)))
    built.set_constant(maker, 1, scale * fitting)
    return ""
