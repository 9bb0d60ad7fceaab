"""Bias correction: take out of each linear op's outputs the mean error that quantizing its weight has put in.

It comes from the mean of the op's inputs in the float model, without inference: E[X W - X V] = E[X] (W - V),
tap by tap at the borders of a Conv. The squared error of every output falls by the square of what is taken
out. What quantized activations shift is seen by `sequential_correction` alone.

Source: Nagel et al. 2019 (arXiv:1906.04721), section 4.3 and appendix D.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from disttune.quantize.algorithms.objective import mean_error
from disttune.quantize.bias_shift import shift_outputs
from disttune.quantize.builder.writer import Blueprint
from disttune.quantize.built_layers import BuiltLayer, FloatLayers
from disttune.quantize.editing import GraphEditor
from disttune.quantize.statistics.layer_means import LayerMeans

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Correction:
    """What came of it.

    Args:
        blueprint: of the corrected model.
        shifts: by op, what was added to its outputs, shape (n_outputs,).
        skipped: op to the reason why it was left alone.
    """

    blueprint: Blueprint
    shifts: Mapping[str, Floats]
    skipped: Mapping[str, str]


class FastBiasCorrection:
    """Corrects the models of one float model.

    Args:
        layers: of the float model.
        means: by op, see `measure_layer_means`.
    """

    def __init__(self, layers: FloatLayers, means: Mapping[str, LayerMeans]):
        self._layers = layers
        self._means = means
        self._known: dict[tuple[str, str], Floats] = {}

    def correct(self, blueprint: Blueprint) -> Correction:
        """Correct every op whose weight has constant codes."""
        built = GraphEditor(blueprint.skeleton, blueprint.tensors)
        found, skipped = self._layers.find(built, self._means)
        shifts = {op: shift for op, layer in found.items() if (shift := self._shift(op, layer)).any()}
        by_node = {found[op].node.name: shift for op, shift in shifts.items()}
        corrected, refused = shift_outputs(blueprint, by_node)
        skipped |= {op: refused[found[op].node.name] for op in shifts if found[op].node.name in refused}
        return Correction(corrected, {op: s for op, s in shifts.items() if op not in skipped}, skipped)

    def _shift(self, op: str, layer: BuiltLayer) -> Floats:
        key = op, layer.digest
        if key not in self._known:
            error = mean_error(self._layers.weight(op), layer.quantized(), self._means[op].mean)
            self._known[key] = self._layers.alpha(op) * error
        return self._known[key]
