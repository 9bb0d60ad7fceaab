"""Biases as int32, in units of the input's scale times the weight's.

A bias that is too large for int32 in these units needs a larger scale of the weight, which is then quantized
once more (`QuantizedWeight.rescaled`). onnxruntime's tool does so for int8 and int16 weights; the rule needs
no more than zero points of 0, whatever the type.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from disttune.config.errors import TrialError
from disttune.quantize.parameters import Float32Array, FloatArray

_LARGEST = 2**31 - 1
_ROOM = 1.0001  # onnxruntime's: the largest bias stays this much below the largest int32
_TINY = np.finfo(np.float32).tiny  # least scale: 0 would be none


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedBias:
    """A bias's codes, and what they mean.

    Args:
        codes: shape of the bias; zero point 0.
        scale: shape of the weight's scale.
        weight_scale: the weight's scale, grown where it had to; codes and scale are in its units.
        ratio: by what the weight's scale has grown, of the same shape; None where it has not.
    """

    codes: NDArray[np.int32]
    scale: Float32Array
    weight_scale: Float32Array
    ratio: FloatArray | None


def bias_codes(
    bias: NDArray[np.floating[Any]],
    scale_x: np.float32 | float,
    scale_w: NDArray[np.float32],
    *,
    beta: float = 1.0,
    may_grow: bool = True,
) -> QuantizedBias:
    """A bias's codes for the scales of its op.

    Args:
        bias: shape (n_channels,).
        scale_x: of the op's input.
        scale_w: of its weight, one or (n_channels,).
        beta: of Gemm.
        may_grow: whether the weight's scale may grow: where all its zero points are 0. A bias that is
            beyond int32 saturates otherwise, to codes of 2**31 - 1 or -2**31.
    Raises:
        TrialError: the bias holds NaN or infinity.
    Source: onnxruntime 1.31, QDQQuantizer._adjust_weight_scale_for_int32_bias.
    """
    values = np.asarray(bias, np.float64)
    if not np.isfinite(values).all():
        raise TrialError("the bias holds NaN or infinity, which have no code. Leave the op in float32.")
    input_scale, weight_scale = np.float32(scale_x), np.asarray(scale_w, np.float32)
    exact = float(input_scale) * weight_scale.astype(np.float64)
    sizes = np.abs(values) if weight_scale.size > 1 else np.abs(values).max(initial=0)
    least = _ROOM * sizes / _LARGEST
    grows = (exact < least) & (exact > 0) & may_grow
    ratio = np.divide(least, exact, out=np.ones_like(exact), where=grows)
    grown = (weight_scale * ratio).astype(np.float32)
    scale = np.maximum(input_scale * grown * np.float32(beta), _TINY)
    codes = np.clip(np.rint(values / scale), -_LARGEST - 1, _LARGEST).astype(np.int32)
    return QuantizedBias(codes, scale, grown, ratio if grows.any() else None)
