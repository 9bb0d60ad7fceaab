"""Ending trials early that can neither meet the goal nor be the best: the rule, and what comes of it.

Pure. While a metric is measured, `bounds` tell what it can still become at best, look after look; they only
get worse. The row of a trial depends on them and on the best of the trials before it alone: one that a rank
has measured to its end, because it did not know that best yet, is cut where it could have ended.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from disttune.config.goal import Goal
from disttune.schedule.history import History
from disttune.schedule.outcome import Outcome

HAS_BOUNDS = ("ok", "pruned", "failed")


@dataclass(frozen=True, slots=True)
class StopRule:
    """What a trial must be able to reach to go on.

    Args:
        goal: with one evaluator.
        best_shortfall: of the best trial so far; 0 when it meets the goal.
        risk: probability that some bound of a trial is wrong; 0: they are certain.
    """

    goal: Goal
    best_shortfall: float
    risk: float = 0.0

    def is_hopeless(self, bound: float) -> bool:
        """Whether a metric that becomes no better than this misses the goal, and is worse than the best."""
        return not self.goal.meets((bound,)) and self.goal.shortfall((bound,)) > self.best_shortfall

    def first_hopeless(self, bounds: Sequence[float]) -> int | None:
        """Place of the first bound that proves it."""
        return next((i for i, bound in enumerate(bounds) if self.is_hopeless(bound)), None)


def stop_rule(history: History, risk: float = 0.0) -> StopRule | None:
    """The rule for the next row; None before there is a best."""
    best = history.best
    if best is None or best.values is None or len(best.values) != 1:
        return None
    return StopRule(history.goal, history.goal.shortfall(best.values), risk)


def cut_short(outcome: Outcome, rule: StopRule | None) -> Outcome:
    """An outcome as it had been with this rule from the beginning."""
    if rule is None or outcome.status not in HAS_BOUNDS:
        return outcome
    place = rule.first_hopeless(outcome.bounds)
    if place is None:
        return outcome
    reason = f"stopped early: bound {outcome.bounds[place]:.6g}"
    if rule.risk:
        reason += f", wrong with probability {rule.risk:g} at most"
    return replace(outcome, status="pruned", values=None, reason=reason)
