"""HAWQ version 2: layers fall back in the order of curvature times quantization error.

1. the default candidate; 2. a probe of every quantized op with a weight: the mean trace of the loss's
Hessian for that weight, and the squared error of quantizing it; score = trace x error; 3. ops in float
together, greatest score first.

Source: Dong et al. 2020, HAWQ-V2 (arXiv:1911.03852), eq. 5; INC 2.6, hawq_v2. What we do differently: no
torch, the trace comes from second-order differences of the loss on the ONNX model.
"""

from collections.abc import Generator
from typing import Any

from disttune.strategy.fallback_stages import number, ranked_by_probe, together
from disttune.strategy.registry import register_strategy
from disttune.strategy.so_far import SoFar
from disttune.strategy.stage import Probe, Stage, StageResult
from disttune.strategy.start import start
from disttune.strategy.tuning import Tuning

MAX_PROBES = 32


@register_strategy("hawq_v2")
class HawqV2:
    """See the head of this file.

    Args:
        hawq_v2_loss: `file.py:function` of (outputs, targets) that gives the loss of one calibration feed;
            by default the mean squared difference from the float model's own outputs.
    """

    def __init__(self, hawq_v2_loss: str | None = None):
        self.loss = hawq_v2_loss

    def stages(self, tuning: Tuning) -> Generator[Stage, StageResult, None]:
        space = yield from start(tuning)
        so_far = SoFar(tuning, space.default_candidate())
        yield from so_far.run(Stage("default", [space.default_candidate()]))
        base = so_far.best
        weights = {op.name: op.weight for op in tuning.summary.ops}
        layers = [op for op in base.quantized_ops[::-1] if weights[op] is not None]
        if not layers:
            tuning.note("hawq_v2: the end, no quantized op has a weight")
            return
        probes = [Probe("hessian_trace", self._arguments(tuning, op), base) for op in layers]
        name = "curvature of each layer"
        ranked = yield from ranked_by_probe(tuning, so_far, name, layers, probes, score=_score)
        for float_type in space.float_types:
            yield from together(so_far, base, [(op,) for op in ranked], float_type, "layers by curvature")

    def _arguments(self, tuning: Tuning, op: str) -> dict[str, Any]:
        arguments = {"op": op, "seed": tuning.seed, "max_probes": MAX_PROBES}
        return arguments if self.loss is None else {**arguments, "loss": self.loss}


def _score(value: Any) -> float | None:
    """Mean trace x squared error."""
    return number(value["trace"] * value["squared_error"]) if isinstance(value, dict) else None
