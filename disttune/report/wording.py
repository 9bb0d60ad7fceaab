"""How numbers, trials and goals are worded, the same on the console and in files."""

from disttune.config.goal import Goal
from disttune.strategy.trial import Latency, Trial


def printable(text: str, encoding: str = "utf-8") -> str:
    """Text for a stream of this encoding: what it cannot show as escapes, line breaks and tabs kept."""
    shown = "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text)
    return shown.encode(encoding, "backslashreplace").decode(encoding)


def size(n_bytes: int | None) -> str:
    """Bytes in the unit that leaves at most four digits."""
    if n_bytes is None:
        return "-"
    value = float(n_bytes)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.2f} GB"


def duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def latency(latency: Latency) -> str:
    return (
        f"{latency.ratio:.0%} of the float model's (spread {latency.spread:.0%}): "
        f"{latency.milliseconds:.4g} ms to {latency.float_milliseconds:.4g} ms"
    )


def goal(goal: Goal) -> str:
    """Baseline and target in one phrase."""
    if goal.separate:
        parts = [
            f"{o.name} {b:.6g} ({'higher' if o.higher_is_better else 'lower'} is better)"
            for o, b in zip(goal.objectives, goal.baseline, strict=True)
        ]
        loss = f"{goal.tolerable_loss:g} {goal.criterion}"
        return f"baseline {', '.join(parts)}; each may lose {loss}; metric is the worst margin"
    name = goal.objectives[0].name if len(goal.objectives) == 1 else "weighted sum"
    sign = ">=" if goal.higher_is_better else "<="
    return f"baseline {name} {goal.baseline_metric:.6g}, goal {sign} {goal.target:.6g}"


def outcome(trial: Trial) -> str:
    """How a trial went: its metric and what that means, or why there is none."""
    if trial.duplicate_of is not None:
        return f"same model as trial {trial.duplicate_of}"
    if trial.metric is None:
        first_line = next(iter(trial.reason.strip().splitlines()), "")
        return f"{trial.status}: {first_line}" if first_line else trial.status
    return f"{trial.metric:.6g} {'meets the goal' if trial.meets_goal else 'misses the goal'}"
