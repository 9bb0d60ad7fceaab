"""base_tuning's classes by their names, over disttune's own configs, goal and rules.

For scripts that have a loop of their own (`init_tuning`). It runs where it is written, alone; the search on
all ranks of an MPI job is `disttune.autotune`.
"""

from disttune.api.base_tuning.criteria import AccuracyCriterion, TuningCriterion
from disttune.api.base_tuning.evaluator import Evaluator
from disttune.api.base_tuning.tuning_logger import TuningLogger
from disttune.api.base_tuning.tuning_monitor import TrialRecord, TuningMonitor
from disttune.config.config_loader import ConfigLoader, Sampler, SequentialSampler, default_sampler
from disttune.config.tuning_config import TuningConfig

__all__ = [
    "AccuracyCriterion",
    "ConfigLoader",
    "Evaluator",
    "Sampler",
    "SequentialSampler",
    "TrialRecord",
    "TuningConfig",
    "TuningCriterion",
    "TuningLogger",
    "TuningMonitor",
    "default_sampler",
    "init_tuning",
]


def init_tuning(tuning_config: TuningConfig) -> tuple[ConfigLoader, TuningLogger, TuningMonitor]:
    """What a loop of one's own needs: the configs in order, a logger, a monitor."""
    sampler = tuning_config.sampler if not isinstance(tuning_config.sampler, str) else default_sampler
    return (
        ConfigLoader(tuning_config.config_set, sampler),
        TuningLogger(),
        TuningMonitor(tuning_config),
    )
