"""`hessian_trace`: curvature of the loss along a layer's weight, and what quantizing does to the weight.

The trace of the Hessian H is the expectation of v'Hv over Rademacher vectors v (Hutchinson); v'Hv comes from
second-order differences of the loss, (L(w + e v) + L(w - e v) - 2 L(w)) / e^2 with e = 0.01 rms(w), on
the calibration feeds in turn. It ends when the standard error of the mean is below a tenth of it, or at the
greatest number of vectors.

Source: Dong et al. 2020, HAWQ-V2 (arXiv:1911.03852), section 3.2. What we do differently: no gradients, so
any ONNX model will do.
"""

import math
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper

from disttune.config.errors import InternalError, TrialError
from disttune.config.schemes import FLOAT8_DTYPES, Scheme
from disttune.evaluate.probes.output_error import mean_error
from disttune.evaluate.probes.registry import ProbeTools, register_probe
from disttune.evaluate.user_code import describe_exception, load_function
from disttune.quantize.parameters import code_range
from disttune.quantize.summary import channel_axis
from disttune.quantize.tensor_memory import tensor_values
from disttune.space.candidate import Candidate

STEP = 1e-2  # of the rms of the weight
MIN_VECTORS = 4
RELATIVE_ERROR = 0.1
Array = NDArray[np.float32]
Loss = Callable[[list[Any], int], float]  # (outputs, number of the feed)


@register_probe("hessian_trace")
def hessian_trace(
    tools: ProbeTools, candidate: Candidate | None, arguments: Mapping[str, Any]
) -> dict[str, float]:
    """Mean trace of the Hessian for an op's weight (trace over number of elements), and ||W - Wq||^2.

    Args:
        tools: model, feeds.
        candidate: says how the weight is quantized.
        arguments: "op"; "seed"; "max_probes": vectors at most; "loss": `file.py:function` of (outputs,
            targets), else the mean squared difference from the float outputs over their variance.
    """
    if candidate is None:
        raise InternalError("probe hessian_trace needs a candidate")
    op = next((o for o in tools.summary.ops if o.name == arguments["op"]), None)
    if op is None or op.weight is None:
        raise TrialError(f"op {arguments['op']} has no constant weight")
    weight = _initializer(tools.prepared, op.weight.name)
    seed = [arguments["seed"], zlib.crc32(op.name.encode())]
    trace, n_vectors = _trace(tools, op.weight.name, weight, arguments, np.random.default_rng(seed))
    node = next(n for n in tools.prepared.graph.node if n.name == op.name)
    scheme = candidate.config_of(op.name).weight
    error = squared_error(weight, scheme, channel_axis(node, weight.ndim)) if scheme else 0.0
    return {"trace": trace / weight.size, "squared_error": error, "n_vectors": n_vectors}


def squared_error(weight: Array, scheme: Scheme, axis: int | None) -> float:
    """||W - Wq||^2 with thresholds at the least and greatest values.

    Args:
        weight: any shape.
        scheme: dtype, symmetry and granularity count.
        axis: of the channels.
    """
    if scheme.dtype in FLOAT8_DTYPES:
        raise TrialError(f"no error of a weight in {scheme.dtype} is known")
    low, high = code_range(scheme.dtype)
    rows = weight.reshape(1, -1)
    if scheme.granularity == "per_group":
        rows = np.reshape(np.moveaxis(weight, 0, -1), (-1, scheme.group_size or 1))
    elif scheme.granularity == "per_channel" and axis is not None:
        rows = np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1)
    rows = rows.astype(np.float64)
    least = np.minimum(rows.min(axis=1, keepdims=True), 0)
    greatest = np.maximum(rows.max(axis=1, keepdims=True), 0)
    if scheme.symmetric:
        greatest = np.maximum(greatest, -least)
        least = -greatest
        low = low + 1 if low < 0 else low
    scale = np.maximum((greatest - least) / (high - low), np.finfo(np.float32).tiny)
    zero = np.round(low - least / scale)
    codes = np.clip(np.round(rows / scale) + zero, low, high)
    return float(np.sum((rows - (codes - zero) * scale) ** 2))


def _trace(
    tools: ProbeTools, name: str, weight: Array, arguments: Mapping[str, Any], rng: np.random.Generator
) -> tuple[float, int]:
    feeds = tools.first_feeds(len(tools.feeds.feeds))
    step = STEP * float(np.sqrt(np.mean(weight.astype(np.float64) ** 2))) or STEP
    values: list[float] = []
    middle: dict[int, float] = {}
    with tools.open_model(_with_weight_as_input(tools.prepared, name)) as model:

        def outputs(w: Array, number: int) -> list[Any]:
            return model.run(None, {**feeds[number], name: w})

        loss = _loss(tools, arguments, lambda number: outputs(weight, number))
        while len(values) < arguments["max_probes"] and not _is_settled(values):
            number = len(values) % len(feeds)
            vector = np.where(rng.random(weight.shape) < 0.5, -step, step).astype(np.float32)
            if number not in middle:
                middle[number] = loss(outputs(weight, number), number)
            both = loss(outputs(weight + vector, number), number) + loss(
                outputs(weight - vector, number), number
            )
            values.append((both - 2 * middle[number]) / step**2)
    return float(np.mean(values)), len(values)


def _is_settled(values: list[float]) -> bool:
    if len(values) < MIN_VECTORS:
        return False
    return float(np.std(values, ddof=1)) / math.sqrt(len(values)) < RELATIVE_ERROR * abs(
        float(np.mean(values))
    )


def _loss(tools: ProbeTools, arguments: Mapping[str, Any], float_outputs: Callable[[int], list[Any]]) -> Loss:
    if "loss" in arguments:
        return _users_loss(tools, arguments["loss"])
    known: dict[int, list[Any]] = {}

    def from_float(outputs: list[Any], number: int) -> float:
        if number not in known:
            known[number] = float_outputs(number)
        return mean_error(known[number], outputs)

    return from_float


def _users_loss(tools: ProbeTools, reference: str) -> Loss:
    where = "tuning.strategy_kwargs.hawq_v2_loss"
    function = load_function(reference, tools.folder, 2, where)
    targets = tools.feeds.targets
    if targets is None:
        raise TrialError(f"{where} needs targets: let the calibration loader yield (feed, targets)")

    def loss(outputs: list[Any], number: int) -> float:
        try:
            value = float(function(outputs[0] if len(outputs) == 1 else outputs, targets[number]))
        except Exception as error:
            raise TrialError(f"{where} raised {describe_exception(error)}") from error
        if not math.isfinite(value):
            raise TrialError(f"{where} returned {value}")
        return value

    return loss


def _initializer(model: ModelProto, name: str) -> Array:
    tensor = next(t for t in model.graph.initializer if t.name == name)
    return tensor_values(tensor)


def _with_weight_as_input(model: ModelProto, name: str) -> ModelProto:
    """A copy whose weight is given with the feed, so that nothing computed from it is fixed."""
    copy = ModelProto()
    copy.CopyFrom(model)
    kept = [tensor for tensor in copy.graph.initializer if tensor.name != name]
    shape = next(t.dims for t in copy.graph.initializer if t.name == name)
    del copy.graph.initializer[:]
    copy.graph.initializer.extend(kept)
    inputs = [value for value in copy.graph.input if value.name != name]
    del copy.graph.input[:]
    copy.graph.input.extend(inputs)
    copy.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape)))
    return copy
