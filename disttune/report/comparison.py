"""Two runs side by side: what became better or worse, and whether that is a regression."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from disttune.report import wording
from disttune.report.recorded_run import RecordedRun


@dataclass(frozen=True, slots=True)
class Limits:
    """How much worse the second run may be, as shares of the first run's value; None: any much.

    Args:
        metric_loss: of the metric, in its bad direction.
        size_growth, latency_growth, time_growth: of the model's size, its latency ratio, the run's seconds.
    """

    metric_loss: float | None = 0.0
    size_growth: float | None = None
    latency_growth: float | None = None
    time_growth: float | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """One compared value.

    Args:
        name: of the value.
        before, after: as text.
        change: relative, positive for worse; None where one of the two is missing or the first is 0.
        limit: how much worse it may be; None: any much.
        regressed: whether it is worse than that.
    """

    name: str
    before: str
    after: str
    change: float | None
    limit: float | None
    regressed: bool

    @property
    def verdict(self) -> str:
        if self.regressed:
            return "REGRESSION"
        return "ok" if self.limit is not None else "not gated"

    @property
    def change_text(self) -> str:
        if self.change is None:
            return "-"
        if self.change == 0:
            return "same"
        return f"{abs(self.change):.2%} {'worse' if self.change > 0 else 'better'}"


def compare(before: RecordedRun, after: RecordedRun, limits: Limits) -> tuple[Line, ...]:
    """Compare the second run with the first; a goal that is no longer met is a regression in any case."""
    lost_goal = before.goal_met and not after.goal_met
    goal = Line("goal", _met(before), _met(after), None, 0.0, lost_goal)
    sign = -1 if before.higher_is_better else 1
    metric = _line("metric", before.metric, after.metric, limits.metric_loss, "{:.6g}".format, sign)
    sizes = before.size_bytes, after.size_bytes
    return (
        goal,
        metric,
        _line("size", *sizes, limits.size_growth, lambda value: wording.size(int(value))),
        _line("latency", before.latency_ratio, after.latency_ratio, limits.latency_growth, "{:.1%}".format),
        _line("time", before.seconds, after.seconds, limits.time_growth, wording.duration),
    )


def regressions(lines: Sequence[Line]) -> list[Line]:
    return [line for line in lines if line.regressed]


def _line(
    name: str,
    before: float | None,
    after: float | None,
    limit: float | None,
    text: Callable[[float], str],
    sign: int = 1,
) -> Line:
    """A line; `sign` is 1 where more is worse."""
    shown = _shown(before, text), _shown(after, text)
    if before is None or after is None:
        lost = limit is not None and before is not None
        return Line(name, *shown, None, limit, lost)
    worse = sign * (after - before)
    if before == 0:  # a share of nothing: any loss is beyond every limit
        return Line(name, *shown, 0.0 if worse == 0 else None, limit, limit is not None and worse > 0)
    change = worse / abs(before)
    return Line(name, *shown, change, limit, limit is not None and change > limit)


def _shown(value: float | None, text: Callable[[float], str]) -> str:
    return "-" if value is None else text(value)


def _met(run: RecordedRun) -> str:
    return "met" if run.goal_met else "not met"
