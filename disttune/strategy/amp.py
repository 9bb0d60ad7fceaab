"""Automatic mixed precision: a precision for each group of ops, the cheapest mix that meets the goal.

1. probes, all at the same time: what each precision of each group does to the outputs with all else in float
(the accuracy list, least noise first, is in the notes); 2. the search of `precision_search`: one precision
everywhere, the Pareto front of predicted noise and cost, and repair; 3. where the job asks for it, fewer
conversions between neighbours (`fewer_conversions`). The result is a trial that was measured.

Source: AIMET, automatic mixed precision. What we do differently: costs count MatMul and bytes, a knapsack
lists the mixes, nothing takes the metric to be monotone, and all runs on every rank.
"""

from collections.abc import Generator, Sequence

from disttune.config.errors import InputError
from disttune.config.nearest import unknown_name
from disttune.config.weight_methods import parse_weight_method
from disttune.space.candidate import Candidate
from disttune.space.changes import with_weight_method
from disttune.space.cost import MEASURES, CostModel
from disttune.space.precisions import precision_name
from disttune.space.space import Space
from disttune.strategy.fewer_conversions import Conversions, fewer_conversions
from disttune.strategy.precision_search import PrecisionSearch
from disttune.strategy.registry import register_strategy
from disttune.strategy.sensitivity import FLOAT, Group, Measured, group_choices, measured_groups
from disttune.strategy.stage import Stage, StageResult
from disttune.strategy.start import start
from disttune.strategy.tuning import Tuning

DEFAULTS = ("W4A8", "W8A8", "W8A16", "W16A16", "W4", "W8")
LISTED = 5  # of the accuracy list, in the notes


@register_strategy("amp")
class Amp:
    """See the head of this file.

    Args:
        candidates: names of precisions such as "W4A8" (weights, activations) or "W4" (weights alone); float
            is always one. By default those that the target computes fast, or with placement "all" takes.
        sensitivity: of phase 1: "error", of the outputs, by probes; "metric", the job's, by trials.
        cost: that is to be least: "bit_ops", "size" (of weights), or "both", half of each.
        n_feeds: of calibration, for "error".
        repairs: most stages of repair.
        rounding: weight method of convolutions and products, e.g. "adaround"; by default that of the job.
        conversions: share of the cheapest mix's conversions between ops of different precision that may be
            left (AIMET's alpha); 1 leaves phase 3 out.
    """

    def __init__(
        self,
        candidates: Sequence[str] | None = None,
        sensitivity: Measured = "error",
        cost: str = "both",
        n_feeds: int = 4,
        repairs: int = 2,
        rounding: str | None = None,
        conversions: float = 1.0,
    ):
        for key, value, known in (
            ("sensitivity", sensitivity, ("error", "metric")),
            ("cost", cost, MEASURES),
        ):
            if value not in known:
                raise InputError(f"[tuning] strategy_kwargs.{key}: {unknown_name('value', value, known)}")
        for key, number, least in (("n_feeds", n_feeds, 1), ("repairs", repairs, 0)):
            if type(number) is not int or number < least:
                raise InputError(
                    f"[tuning] strategy_kwargs.{key} must be a whole number of at least {least}; "
                    f"found {number!r}"
                )
        self.candidates = None if candidates is None else tuple(candidates)
        self.sensitivity: Measured = sensitivity
        self.cost = cost
        self.n_feeds = n_feeds
        self.repairs = repairs
        is_number = isinstance(conversions, int | float) and not isinstance(conversions, bool)
        if not is_number or not 0 <= conversions <= 1:
            raise InputError(
                f"[tuning] strategy_kwargs.conversions must be a number from 0 to 1; found {conversions!r}"
            )
        self.conversions = conversions
        self.rounding = rounding
        if rounding is not None:
            parse_weight_method(rounding)

    def stages(self, tuning: Tuning) -> Generator[Stage, StageResult, None]:
        self.prefer_cheap(tuning)
        space = yield from start(tuning)
        base = space.default_candidate()
        if self.rounding is not None:
            base = with_weight_method(base, tuning.summary, self.rounding)
        yield from self.search(tuning, space, base)

    def prefer_cheap(self, tuning: Tuning) -> None:
        """Of the trials that meet the goal let the cheapest be best."""
        costs = CostModel(tuning.summary, tuning.space.ops, self.cost)  # type: ignore[arg-type]
        tuning.prefer_most(lambda candidate: (-costs.total(candidate),))

    def search(
        self, tuning: Tuning, space: Space, base: Candidate
    ) -> Generator[Stage, StageResult, Candidate | None]:
        """Both phases; returns the cheapest candidate that meets the goal, or None.

        Args:
            tuning: of the job.
            space: with the precisions.
            base: its recipes hold, and its configs stand for their precision.
        """
        names = self.names(tuning, space, base)
        costs = CostModel(tuning.summary, base.ops, self.cost)  # type: ignore[arg-type]
        groups = group_choices(tuning, space, base, names, costs)
        groups = yield from measured_groups(
            tuning, base, groups, self._measured(tuning, groups), self.n_feeds
        )
        _note_list(tuning, groups)
        search = PrecisionSearch(tuning, base, groups, self.repairs)
        yield from search.run(names)
        if search.best is None:
            return None
        cheapest = search.candidate(search.best)
        if self.conversions < 1:
            counted = Conversions(tuning.summary, base.ops)
            yield from fewer_conversions(tuning, search, counted, self.conversions)
        return cheapest

    def names(self, tuning: Tuning, space: Space, base: Candidate, also: Sequence[str] = ()) -> list[str]:
        """The precisions that are tried: the named ones, or that of the base and what the target offers.

        Args:
            tuning: is told which are not fused.
            space: with the precisions.
            base: to start from.
            also: others, where none are named.
        Raises:
            InputError: one of them is unknown, or no op of the model can have it here.
        """
        quantized = [c for c in base.configs().values() if c.quantized]
        own = dict.fromkeys(map(precision_name, [c for c in quantized if c.weight] or quantized))
        if self.candidates is None:
            offered = (n for n in DEFAULTS if n in space.precisions and space.precisions[n].offered)
            return list(dict.fromkeys([*own, *offered, *also]))
        for name in self.candidates:
            if name not in (*space.precisions, *own, FLOAT):
                known = [*space.precisions, FLOAT]
                text = unknown_name("precision", name, known)
                raise InputError(f"[tuning] strategy_kwargs.candidates: {text} (of this model on its target)")
        named = [name for name in dict.fromkeys(self.candidates) if name != FLOAT]
        slow = [name for name in named if name in space.precisions and not space.precisions[name].fused]
        if slow:
            tuning.note(
                f"warning: the target computes {', '.join(slow)} in float between the codes: "
                "smaller, not faster"
            )
        return named

    def _measured(self, tuning: Tuning, groups: Sequence[Group]) -> Measured:
        n_trials = sum(len(group) - 1 for group in groups)
        if self.sensitivity == "metric" and n_trials > tuning.n_trials_left // 2:
            tuning.note(
                f'sensitivity "metric": {n_trials} trials are more than half of those left; "error" instead'
            )
            return "error"
        return self.sensitivity


def _note_list(tuning: Tuning, groups: Sequence[Group]) -> None:
    """Tell the user the end of the accuracy list: what hurts most."""
    rows = [(c.value.noise, g, c.name) for g, group in enumerate(groups) for c in group if c.name != FLOAT]
    worst = sorted(rows, key=lambda row: (-row[0], row[1]))[:LISTED]
    text = "; ".join(f"{name} of {next(iter(groups[g][0].configs))} {noise:.2g}" for noise, g, name in worst)
    if text:
        tuning.note(f"error of outputs over {len(groups)} groups, greatest first: {text}")
