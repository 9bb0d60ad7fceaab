"""Probes by kind: measurements of a candidate, an op or a layer that are no trial."""

from disttune.evaluate.probes.registry import ProbeTools, find_probe, probe_names, register_probe

__all__ = ["ProbeTools", "find_probe", "probe_names", "register_probe"]
