"""SmoothQuant: static quantization after outliers of activations have moved into the weights.

Names of the parameters as in ONNX neural-compressor's SmoothQuantConfig.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from disttune.config.algorithms.parameter import boolean, model_level
from disttune.config.algorithms.registry import register_algorithm
from disttune.config.algorithms.static import StaticQuantConfig
from disttune.config.errors import InputError
from disttune.config.recipes import RecipeValue
from disttune.config.schemes import Approach


def _alpha(parameter: str, value: Any) -> float | str:
    if value == "auto":
        return "auto"
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise InputError(f'{parameter} must be a number from 0 to 1, or "auto"; {value!r} was given')
    return float(value)


@register_algorithm("smooth_quant")
@dataclass(frozen=True)
class SmoothQuantConfig(StaticQuantConfig):
    """Each parameter is one value or a list of values to try; those of `StaticQuantConfig` come first.

    Args:
        alpha: how much of an outlier is moved: 0 none, 1 all; "auto": chosen for each layer. A numpy array
            holds several values.
        scales_per_op: every op that reads a tensor gets factors of its own. (The peer's default is True.)
        smooth_conv: smooth the inputs of Conv too.
    """

    approach: ClassVar[Approach] = "static"

    alpha: Any = field(default=0.5, metadata=model_level(_alpha))
    scales_per_op: bool | Sequence[bool] = field(default=False, metadata=model_level(boolean))
    smooth_conv: bool | Sequence[bool] = field(default=False, metadata=model_level(boolean))

    def recipes(self) -> dict[str, RecipeValue]:
        asked: dict[str, RecipeValue] = {
            "smooth_quant": True,
            "smooth_quant_alpha": self.alpha,
            "smooth_quant_scales_per_op": bool(self.scales_per_op),
            "smooth_quant_conv": bool(self.smooth_conv),
        }
        return asked
