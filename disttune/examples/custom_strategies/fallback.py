"""Fallback: give the most sensitive operators back to float until the goal is met, as a generator of stages.

Source: partial quantization, Wu et al. 2020 (arXiv:2004.09602).
"""

from disttune.strategy import Stage


class Fallback:
    """Keywords of `__init__` are the job's `tuning.strategy_kwargs`."""

    def __init__(self, max_ops=20):
        self.max_ops = max_ops

    def stages(self, tuning):
        start = tuning.space.default_candidate()
        first = yield Stage("all quantized", [start])
        if first.goal_met:
            return
        # The candidates of a stage run at the same time, on all ranks.
        singles = yield Stage("one op in float", [start.in_float(op) for op in start.ops])
        worst = [start.ops[i] for i in singles.best_first()[: self.max_ops]]
        # Lazy: a met goal ends it.
        together = (start.in_float(*worst[:n]) for n in range(2, len(worst) + 1))
        yield Stage("several ops in float", together)
