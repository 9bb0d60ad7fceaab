"""`latency`: how long a run of a candidate's model takes, against the float model's beside it.

Pairs of runs, one of each model on the same feed, the one that goes first changing from pair to pair: what
slows the machine for a while slows both. The scheduler sees to it that nothing else runs on the node. The
sessions pack their weights even in jobs whose other sessions share them: the exported model will.
"""

import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from disttune.config.errors import InternalError
from disttune.evaluate.model import QuantizedModel
from disttune.evaluate.probes.registry import ProbeTools, register_probe
from disttune.space.candidate import Candidate

MAX_FEEDS = 8
WARM_UPS = 2  # runs of each model
MIN_PAIRS = 5
MAX_PAIRS = 200
ENOUGH_S = 1.0  # no new pair after so long, once there are enough


@register_probe("latency")
def latency(
    tools: ProbeTools,
    candidate: Candidate | None,
    arguments: Mapping[str, Any],  # noqa: ARG001
) -> dict[str, float]:
    """Ratio to the float model with its spread, and both in milliseconds.

    Args:
        tools: models, feeds.
        candidate: whose model is run.
        arguments: "trial": its number.
    """
    if candidate is None:
        raise InternalError("probe latency needs a candidate")
    feeds = tools.first_feeds(MAX_FEEDS)
    models = tools.prepared, tools.build(candidate)
    plain, quantized = (tools.open_model(model, packed=True) for model in models)
    with plain, quantized:
        for number in range(WARM_UPS):
            _seconds(plain, feeds[number % len(feeds)])
            _seconds(quantized, feeds[number % len(feeds)])
        return _summary(_pairs(plain, quantized, feeds))


def _pairs(
    plain: QuantizedModel, quantized: QuantizedModel, feeds: list[Mapping[str, Any]]
) -> list[tuple[float, float]]:
    """Seconds of the quantized and of the float model, pair by pair."""
    pairs: list[tuple[float, float]] = []
    end_s = time.monotonic() + ENOUGH_S
    while len(pairs) < MIN_PAIRS or (len(pairs) < MAX_PAIRS and time.monotonic() < end_s):
        feed = feeds[len(pairs) % len(feeds)]
        if len(pairs) % 2:
            before_s = _seconds(plain, feed)
            pairs.append((_seconds(quantized, feed), before_s))
        else:
            pairs.append((_seconds(quantized, feed), _seconds(plain, feed)))
    return pairs


def _summary(pairs: list[tuple[float, float]]) -> dict[str, float]:
    seconds = np.maximum(np.asarray(pairs), 1e-9)
    lower, middle, upper = np.quantile(seconds[:, 0] / seconds[:, 1], (0.25, 0.5, 0.75))
    quantized_s, float_s = np.median(seconds, axis=0)
    return {
        "ratio": float(middle),
        "spread": float(upper - lower),
        "milliseconds": float(quantized_s) * 1e3,
        "float_milliseconds": float(float_s) * 1e3,
    }


def _seconds(model: QuantizedModel, feed: Mapping[str, Any]) -> float:
    started_s = time.perf_counter()
    model.run(None, feed)
    return time.perf_counter() - started_s
