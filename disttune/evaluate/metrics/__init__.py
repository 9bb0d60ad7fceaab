"""Built-in metrics by name. One file per metric; see `registry` for how one is added."""

from disttune.evaluate.metrics.registry import (
    Metric,
    bounded_metrics,
    find_metric,
    metric_names,
    metrics_in_a_range,
    register_metric,
)

__all__ = [
    "Metric",
    "bounded_metrics",
    "find_metric",
    "metric_names",
    "register_metric",
    "metrics_in_a_range",
]
