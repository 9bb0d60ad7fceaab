"""Whether two float models compute the same, on given inputs."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto

from disttune.quantize.digest import serialize
from disttune.quantize.session_values import give_to_session, session_model

Feed = Mapping[str, NDArray[Any]]
# A change of the float graph is taken back from here on; rounding alone leaves 1e-6.
MOST_DIFFERENCE = 1e-4
N_CHECKED = 2  # feeds


def largest_difference(before: ModelProto, after: ModelProto, feeds: Sequence[Feed]) -> float:
    """Largest difference of any float output over the largest magnitude of that output.

    Args:
        before, after: float models with the same inputs and outputs.
        feeds: each is run through both models, without graph optimizations.
    Returns:
        0 for equal outputs; infinity where only one of them is not finite, or other outputs differ at all.
    """
    worst = 0.0
    for one, other in zip(plain_outputs(before, feeds), plain_outputs(after, feeds), strict=True):
        pairs = zip(map(np.asarray, one), map(np.asarray, other), strict=True)
        worst = max([worst, *(_difference(a, b) for a, b in pairs)])
    return worst


def plain_outputs(model: ModelProto, feeds: Iterable[Feed]) -> list[list[Any]]:
    """All outputs for each feed, without graph optimizations, on the CPU."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    named, values = session_model(model)
    give_to_session(values, options)
    session = onnxruntime.InferenceSession(serialize(named), options, providers=["CPUExecutionProvider"])
    return [session.run(None, dict(feed)) for feed in feeds]  # the values are kept until here


def _difference(a: NDArray[Any], b: NDArray[Any]) -> float:
    if a.shape != b.shape or a.dtype != b.dtype:
        return float("inf")
    if a.dtype != np.float32:
        return 0.0 if np.array_equal(a, b) else float("inf")
    if np.array_equal(a, b, equal_nan=True):
        return 0.0
    if not np.array_equal(np.isfinite(a), np.isfinite(b)):
        return float("inf")
    finite = np.isfinite(a)
    gap = float(np.abs(a[finite].astype(np.float64) - b[finite]).max(initial=0))
    return gap / max(float(np.abs(a[finite]).max(initial=0)), 1e-30)
