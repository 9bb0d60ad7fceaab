"""Auto mixed precision by one walk over groups of ops, in the order of what a change does to the outputs.

1. "quality": all groups in the job's own precision; "speed": all in the baseline's; 2. a probe of each group
alone in each of the other precisions, and its best; 3. groups change one after another, least error first,
until the goal is met ("quality"), or as long as it is ("speed", eight at a time, the last that holds is the
result).

Source: AMD Quark ONNX, auto mixed precision. What we do differently: the threshold is the job's goal, the
sensitivities are measured at the same time. `amp` looks further: it does not stop at the first that misses.
"""

from collections.abc import Generator, Iterator, Sequence

from disttune.config.errors import InputError
from disttune.config.nearest import unknown_name
from disttune.space.candidate import Candidate
from disttune.space.precisions import precision_name
from disttune.space.quantizer_groups import quantizer_groups
from disttune.space.space import Space
from disttune.strategy.fallback_stages import Group, number
from disttune.strategy.registry import register_strategy
from disttune.strategy.sensitivity import FLOAT, Configs, configs_of
from disttune.strategy.stage import Probe, Stage, StageResult
from disttune.strategy.start import start
from disttune.strategy.tuning import Sensitivity, Tuning

OBJECTIVES = ("quality", "speed")
AT_A_TIME = 8
N_FEEDS = 4


@register_strategy("auto_mixed_precision")
class AutoMixedPrecision:
    """See the head of this file.

    Args:
        objective: "quality" starts low and gives groups more bits until the goal is met; "speed" starts high
            and takes bits away as long as it is.
        targets: precisions that groups change to, e.g. ["W8A16", "float"]; by default float with "quality",
            the job's own with "speed".
        baseline: precision that "speed" starts from.
        n_feeds: of calibration, for the errors.
    """

    def __init__(
        self,
        objective: str = "quality",
        targets: Sequence[str] | None = None,
        baseline: str = FLOAT,
        n_feeds: int = N_FEEDS,
    ):
        if objective not in OBJECTIVES:
            raise InputError(
                f"[tuning] strategy_kwargs.objective: {unknown_name('value', objective, OBJECTIVES)}"
            )
        self.is_speed = objective == "speed"
        self.targets = targets
        self.baseline = baseline
        self.n_feeds = n_feeds

    def stages(self, tuning: Tuning) -> Generator[Stage, StageResult, None]:
        space = yield from start(tuning)
        default = space.default_candidate()
        self._check(space, default)
        groups = quantizer_groups(tuning.summary, default.quantized_ops)
        base = self._base(space, default, groups)
        if base.quantized_ops:
            result = yield Stage("baseline", [base], goal_stops=not self.is_speed)
            if self.is_speed and result.goal_met:
                tuning.prefer(result.trials[0])
            elif self.is_speed or result.goal_met:
                tuning.note(f"the end: the baseline {'misses' if self.is_speed else 'meets'} the goal")
                return
        order = yield from self._ranked(tuning, base, self._changes(space, default, groups))
        walk = _walk(base, order)
        if self.is_speed:
            yield from _as_long_as_it_holds(tuning, list(walk))
        else:
            yield Stage("more precision", walk)

    def _check(self, space: Space, default: Candidate) -> None:
        """Refuse a precision that no op of the model can have.

        Raises:
            InputError: there is one.
        """
        known = {*space.precisions, FLOAT, *map(precision_name, default.configs().values())}
        for name in (*(self.targets or ()), self.baseline):
            if name not in known:
                text = unknown_name("precision", name, sorted(known))
                raise InputError(f"[tuning] strategy_kwargs: {text} (of this model on its target)")

    def _base(self, space: Space, default: Candidate, groups: Sequence[Group]) -> Candidate:
        """The default, or with "speed" the baseline wherever a group can have it."""
        if not self.is_speed:
            return default
        found = (configs_of(space, default, group, self.baseline) for group in groups)
        return default.with_configs({op: c for configs in found for op, c in (configs or {}).items()})

    def _changes(
        self, space: Space, default: Candidate, groups: Sequence[Group]
    ) -> dict[Group, list[Configs]]:
        """What each group can change to."""
        if self.is_speed and self.targets is None:
            return {group: [{op: default.config_of(op) for op in group}] for group in groups}
        names = self.targets or (FLOAT,)
        return {
            group: [c for name in names if (c := configs_of(space, default, group, name)) is not None]
            for group in groups
        }

    def _ranked(
        self, tuning: Tuning, base: Candidate, others: dict[Group, list[Configs]]
    ) -> Generator[Stage, StageResult, list[Configs]]:
        """The best change of each group, by the error of the model's outputs, least first."""
        items = [(group, change) for group, found in others.items() for change in found]
        alone = [base.with_configs(change) for _, change in items]
        probes = [Probe("fallback_mse", {"n_feeds": self.n_feeds}, candidate) for candidate in alone]
        result = yield Stage("each group alone", probes)
        found: dict[Group, tuple[float, int]] = {}
        for i, ((group, _), value) in enumerate(zip(items, result.probes, strict=False)):
            error = number(value)
            if error is not None:
                found[group] = min(found.get(group, (error, i)), (error, i))
        tuning.sensitivity[:] = [
            Sensitivity(items[i][0], _names(items[i][1]), error) for error, i in sorted(found.values())[::-1]
        ]
        if len(found) < len(others):
            tuning.note(f"each group alone: {len(others) - len(found)} of {len(others)} failed and stay")
        return [items[i][1] for _, i in sorted(found.values())]


def _names(change: Configs) -> str:
    """Of the precisions that a change gives."""
    return ", ".join(dict.fromkeys(map(precision_name, change.values())))


def _walk(base: Candidate, order: Sequence[Configs]) -> Iterator[Candidate]:
    """One more group changed each time."""
    for change in order:
        base = base.with_configs(change)
        if base.quantized_ops:
            yield base


def _as_long_as_it_holds(tuning: Tuning, walk: Sequence[Candidate]) -> Generator[Stage, StageResult, None]:
    for first in range(0, len(walk), AT_A_TIME):
        name = f"less precision, from group {first + 1}"
        result = yield Stage(name, walk[first : first + AT_A_TIME], needs="goal", goal_stops=False)
        for trial in result.trials:
            if not trial.meets_goal:
                return
            tuning.prefer(trial)
