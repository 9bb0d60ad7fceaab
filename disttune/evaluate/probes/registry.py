"""Probes by kind. Adding one is a new file in this package with a function under `@register_probe("kind")`.

The function takes the tools, the candidate (or None) and the probe's arguments, and returns plain JSON.
What it raises as TrialError fails the probe, not the job. Third parties name their module in the
entry-point group `disttune.probes`.
"""

import importlib
import importlib.metadata
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onnx import ModelProto

from disttune.config.errors import TrialError
from disttune.config.nearest import unknown_name
from disttune.evaluate.data import Feeds
from disttune.evaluate.model import QuantizedModel
from disttune.space.candidate import Candidate
from disttune.space.summary import ModelSummary


@dataclass(frozen=True)
class ProbeTools:
    """What a probe works with, the same for all probes of a trial process.

    Args:
        prepared: the float model; its node names are the op names.
        summary: of it.
        feeds: of the calibration, with targets where the loader gives some.
        build: the model of a candidate.
        open_model: a model as it is run here, or with `packed=True` as onnxruntime runs it by default; to
            be closed.
        folder: where relative files are looked up.
        kept: what a kind of probe wants to find again, under its own name.
    """

    prepared: ModelProto
    summary: ModelSummary
    feeds: Feeds
    build: Callable[[Candidate], ModelProto]
    open_model: Callable[..., QuantizedModel]
    folder: Path
    kept: dict[str, Any] = field(default_factory=dict)

    def first_feeds(self, n: int) -> list[Mapping[str, Any]]:
        """At most this many feeds.

        Raises:
            TrialError: there are none.
        """
        if not self.feeds.feeds:
            raise TrialError("a probe needs calibration feeds, and there are none: give calibration data")
        return list(self.feeds.feeds[:n])


Measure = Callable[[ProbeTools, Candidate | None, Mapping[str, Any]], Any]
_REGISTERED: dict[str, Measure] = {}


def register_probe(kind: str) -> Callable[[Measure], Measure]:
    """Decorator: make a function known by the kind that strategies name in `Probe(kind)`."""

    def register(measure: Measure) -> Measure:
        _REGISTERED[kind] = measure
        return measure

    return register


def probe_names() -> list[str]:
    """Every kind that `find_probe` accepts, sorted."""
    _import_shipped()
    return sorted({*_REGISTERED, *(e.name for e in _entry_points())})


def find_probe(kind: str) -> Measure:
    """The function of a kind of probe.

    Raises:
        TrialError: there is none.
    """
    _import_shipped()
    if kind not in _REGISTERED:
        for entry in _entry_points():
            if entry.name == kind:
                entry.load()
    if kind not in _REGISTERED:
        raise TrialError(unknown_name("kind of probe", kind, probe_names()))
    return _REGISTERED[kind]


def _import_shipped() -> None:
    package = importlib.import_module("disttune.evaluate.probes")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")


def _entry_points() -> importlib.metadata.EntryPoints:
    return importlib.metadata.entry_points(group="disttune.probes")
