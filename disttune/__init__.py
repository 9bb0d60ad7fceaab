"""Distributed accuracy-aware quantization tuning of ONNX models over MPI."""

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "autotune": "disttune.api.autotune",
    "TuningConfig": "disttune.config.tuning_config",
    "StaticQuantConfig": "disttune.config.algorithms.static",
    "DynamicQuantConfig": "disttune.config.algorithms.dynamic",
    "SampleEvaluator": "disttune.evaluate.samples",
    "QuantizedModel": "disttune.evaluate.model",
    "DisttuneError": "disttune.config.errors",
}
__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: `import disttune` costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'disttune' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)
