"""`activation_outliers`: how far the largest input of ops is from the bulk, over the first feeds."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from disttune.config.errors import InternalError
from disttune.evaluate.probes.op_mse import with_outputs
from disttune.evaluate.probes.registry import ProbeTools, register_probe
from disttune.space.candidate import Candidate

BULK = 99.9  # percent of the magnitudes


@register_probe("activation_outliers")
def activation_outliers(
    tools: ProbeTools, candidate: Candidate | None, arguments: Mapping[str, Any]
) -> dict[str, float]:
    """Greatest magnitude over the 99.9th percentile of the magnitudes, of each op's data input.

    Args:
        tools: model, feeds.
        candidate: none: the float model is looked at.
        arguments: "ops": their names; "n_feeds": how many.
    Returns:
        Op to the largest ratio over the feeds; at least 1, and 1 where the percentile is 0.
    """
    if candidate is not None:
        raise InternalError("probe activation_outliers looks at the float model and takes no candidate")
    data = {op.name: op.inputs[0] for op in tools.summary.ops if op.name in set(arguments["ops"])}
    ratios = dict.fromkeys(data, 1.0)
    names = list(dict.fromkeys(data.values()))
    made = [name for name in names if name not in tools.summary.inputs]
    with tools.open_model(with_outputs(tools.prepared, made)) as model:
        for feed in tools.first_feeds(arguments["n_feeds"]):
            found = dict(zip(made, map(np.asarray, model.run(made, feed) if made else ()), strict=True))
            found |= {name: np.asarray(feed[name]) for name in names if name in tools.summary.inputs}
            for op, tensor in data.items():
                ratios[op] = max(ratios[op], _ratio(found[tensor]))
    return ratios


def _ratio(values: NDArray[np.generic]) -> float:
    magnitudes = np.abs(np.asarray(values, np.float64)).ravel()
    magnitudes = magnitudes[np.isfinite(magnitudes)]
    bulk = float(np.percentile(magnitudes, BULK)) if magnitudes.size else 0.0
    return float(magnitudes.max()) / bulk if bulk > 0 else 1.0
