"""Latencies at the end of a stage: one probe for each trial that meets the goal, one after the other.

Pure. What a probe finds is a fact of the clock: it is journaled, and a resumed job takes it from there.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from disttune.config.errors import InternalError
from disttune.schedule.outcome import Outcome
from disttune.strategy.stage import Probe
from disttune.strategy.trial import Latency, Trial

KIND = "latency"


def latency_probes(rows: Iterable[Trial]) -> list[Probe]:
    """The probes that measure these trials."""
    return [Probe(KIND, {"trial": row.number}, row.candidate) for row in rows]


def measured_latency(outcome: Outcome) -> Latency | None:
    """What such a probe found; None when it failed.

    Raises:
        InternalError: its value has another form than the probe gives it.
    """
    if outcome.status != "ok":
        return None
    found: Any = outcome.value
    names = Latency.__dataclass_fields__
    if not isinstance(found, Mapping) or any(not _is_duration(found.get(name)) for name in names):
        raise InternalError(f"a probe of kind {KIND} gave {found!r}")
    return Latency(**{name: float(found[name]) for name in names})


def told(trial: Trial, outcome: Outcome) -> str:
    """One sentence for the user."""
    latency = trial.latency
    if latency is None:
        return f"trial {trial.number}: its latency could not be measured: {outcome.reason or outcome.status}"
    return (
        f"trial {trial.number}: latency {latency.ratio:.3f} of the float model's, "
        f"spread {latency.spread:.3f} ({latency.milliseconds:.4g} ms)"
    )


def _is_duration(value: object) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value) and value >= 0  # type: ignore[arg-type, operator]
