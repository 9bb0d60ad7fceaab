"""Distributed accuracy-aware quantization tuning of ONNX models over MPI."""

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "autotune": "disttune.api.autotune",
    "TuningConfig": "disttune.config.tuning_config",
    "StaticQuantConfig": "disttune.config.algorithms.static",
    "DynamicQuantConfig": "disttune.config.algorithms.dynamic",
    "RTNConfig": "disttune.config.algorithms.rtn",
    "GPTQConfig": "disttune.config.algorithms.gptq",
    "AWQConfig": "disttune.config.algorithms.awq",
    "HQQConfig": "disttune.config.algorithms.hqq",
    "SmoothQuantConfig": "disttune.config.algorithms.smooth_quant",
    "ComposableConfig": "disttune.config.algorithms.composable",
    "get_woq_tuning_config": "disttune.config.algorithms.woq_tuning",
    "SampleEvaluator": "disttune.evaluate.samples",
    "QuantizedModel": "disttune.evaluate.model",
    "TuningCriterion": "disttune.api.base_tuning.criteria",
    "AccuracyCriterion": "disttune.api.base_tuning.criteria",
    "Evaluator": "disttune.api.base_tuning.evaluator",
    "Sampler": "disttune.config.config_loader",
    "SequentialSampler": "disttune.config.config_loader",
    "ConfigLoader": "disttune.config.config_loader",
    "TuningMonitor": "disttune.api.base_tuning.tuning_monitor",
    "TuningLogger": "disttune.api.base_tuning.tuning_logger",
    "init_tuning": "disttune.api.base_tuning",
    "TuneStrategy": "disttune.strategy.tune_strategy",
    "check_target": "disttune.quantize.target_check",
    "check_strategy": "disttune.schedule.strategy_check",
    "DisttuneError": "disttune.config.errors",
}
__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: `import disttune` costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'disttune' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*__all__, *globals()})
