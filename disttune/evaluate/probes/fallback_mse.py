"""`fallback_mse`: how far a candidate's outputs are from the float model's, over the first feeds."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from disttune.config.errors import InternalError
from disttune.evaluate.probes.output_error import mean_error
from disttune.evaluate.probes.registry import ProbeTools, register_probe
from disttune.space.candidate import Candidate


@register_probe("fallback_mse")
def fallback_mse(tools: ProbeTools, candidate: Candidate | None, arguments: Mapping[str, Any]) -> float:
    """Mean over feeds and outputs of the error.

    Args:
        tools: model, feeds.
        candidate: whose outputs are compared.
        arguments: "n_feeds": how many.
    """
    if candidate is None:
        raise InternalError("probe fallback_mse needs a candidate")
    feeds = tools.first_feeds(arguments["n_feeds"])
    references = tools.kept.setdefault("fallback_mse", [])  # outputs of the float model, one list per feed
    if len(references) < len(feeds):
        with tools.open_model(tools.prepared) as model:
            references[:] = [list(map(np.asarray, model.run(None, feed))) for feed in feeds]
    with tools.open_model(tools.build(candidate)) as model:
        found = [list(map(np.asarray, model.run(None, feed))) for feed in feeds]
    errors = [mean_error(a, b) for a, b in zip(references, found, strict=False)]
    return sum(errors) / len(errors)
