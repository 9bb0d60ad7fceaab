"""Auto Search's keys of the whole job, moved to their sections: stop conditions, metric, tolerance.

| Quark, in `tuning.strategy_kwargs` | here |
| --- | --- |
| search_stop_condition.find_n_candidates | `tuning.find_n` |
| search_stop_condition.find_best_candidate | `tuning.patience`: trials without a better best |
| search_stop_condition.iteration_limit | `tuning.max_trials` |
| search_stop_condition.time_limit | `tuning.timeout`, in seconds |
| search_metric L1, L2, cos, psnr, ssim | `evaluation.metric` l1, mse, cosine, psnr, ssim |
| search_evaluator | `evaluation.function` |
| search_metric_tolerance | `accuracy.tolerable_loss` with criterion "absolute" |

A limit of -1 is none. Metrics are held against the float model's outputs, on the calibration data where there
are no `evaluation.data`. Quark's L2 is a mean square, hence mse; its cos is (1 + cosine) / 2. What the ranks
and the run directory decide has no key here.
"""

from collections.abc import Mapping
from typing import Any

from disttune.config.nearest import unknown_name
from disttune.config.toml_text import shown

AUTO_SEARCH = "auto_search"
UNLIMITED = 1_000_000_000
STOP = {
    "find_n_candidates": "find_n",
    "find_best_candidate": "patience",
    "iteration_limit": "max_trials",
    "time_limit": "timeout",
}
METRICS = {"L1": "l1", "L2": "mse", "cos": "cosine", "psnr": "psnr", "ssim": "ssim"}
_ELSEWHERE = {
    "n_jobs": "the number of ranks decides (mpirun -np N)",
    "search_devices": "trials run on the ranks' own cores",
    "search_cache_dir": "statistics and results are kept in the run directory (-o), for a resume too",
    "search_output_dir": "the run directory (-o) holds the best model",
    "search_log_path": "the log is auto_search.log in the run directory (-o)",
}


def with_auto_search_sections(data: dict[str, Any], where: str) -> list[str]:
    """Move what belongs to other sections there, in place; other strategies' jobs stay as they are.

    Args:
        data: plain sections of a job.
        where: name of the job file, at the head of a mistake.
    Returns:
        What is wrong, a line for each mistake.
    """
    tuning = data.get("tuning")
    if not isinstance(tuning, dict) or tuning.get("strategy") != AUTO_SEARCH:
        return []
    kwargs = tuning.get("strategy_kwargs")
    if not isinstance(kwargs, dict):
        return []
    move = _Move(data, kwargs, f"{where}, [tuning] strategy_kwargs")
    for key, why in _ELSEWHERE.items():
        if key in kwargs:
            move.mistakes.append(f"{move.where}.{key}: leave it out, {why}")
    move.stop_conditions()
    if "search_metric" in kwargs:
        move.metric(kwargs.pop("search_metric"))
    if (function := kwargs.pop("search_evaluator", None)) is not None:
        move.put("search_evaluator", "evaluation", "function", function)
    if (tolerance := kwargs.pop("search_metric_tolerance", None)) is not None:
        move.put("search_metric_tolerance", "accuracy", "criterion", "absolute")
        move.put("search_metric_tolerance", "accuracy", "tolerable_loss", tolerance)
    return move.mistakes


class _Move:
    """Sections that take over keys.

    Args:
        data: of the job.
        kwargs: of the strategy.
        where: of these.
    """

    def __init__(self, data: dict[str, Any], kwargs: dict[str, Any], where: str):
        self._data, self._kwargs, self.where = data, kwargs, where
        self.mistakes: list[str] = []

    def stop_conditions(self) -> None:
        given = self._kwargs.pop("search_stop_condition", {})
        if not isinstance(given, Mapping):
            self.mistakes.append(
                f"{self.where}.search_stop_condition: must be a table; {shown(given)} was given"
            )
            return
        conditions = {**given, **{key: self._kwargs.pop(key) for key in STOP if key in self._kwargs}}
        for key, limit in conditions.items():
            if key not in STOP:
                text = unknown_name("key", key, STOP)
                self.mistakes.append(f"{self.where}.search_stop_condition: {text}")
            elif limit != -1:
                self.put(key, "tuning", STOP[key], limit)
            elif key == "iteration_limit":
                self.put(key, "tuning", STOP[key], UNLIMITED)

    def metric(self, name: Any) -> None:
        if name not in METRICS:
            text = unknown_name("search_metric", str(name), METRICS)
            self.mistakes.append(f"{self.where}.search_metric: {text}")
            return
        self.put("search_metric", "evaluation", "metric", METRICS[name])
        calibration = self._data.get("calibration")
        if isinstance(calibration, dict) and "data" in calibration:
            self._section("evaluation").setdefault("data", calibration["data"])

    def put(self, key: str, section: str, name: str, value: Any) -> None:
        """Set a key of a section that does not say otherwise."""
        held = self._section(section)
        if name in held and held[name] != value:
            self.mistakes.append(
                f"{self.where}.{key} = {shown(value)} is {section}.{name}, which is {shown(held[name])}; "
                "keep one of them"
            )
        held.setdefault(name, value)

    def _section(self, name: str) -> dict[str, Any]:
        section = self._data.setdefault(name, {})
        return section if isinstance(section, dict) else {}
