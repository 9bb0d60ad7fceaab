"""What each precision of each group of ops does to the model's output, with all else in float."""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from disttune.config.schemes import FLOAT32, OpConfig
from disttune.config.weight_methods import WEIGHT_METHODS
from disttune.space.candidate import Candidate
from disttune.space.cost import CostModel
from disttune.space.precisions import is_of
from disttune.space.quantizer_groups import quantizer_groups
from disttune.space.space import Space
from disttune.strategy.fallback_stages import number
from disttune.strategy.knapsack import Choice
from disttune.strategy.stage import Probe, Stage, StageResult
from disttune.strategy.trial import Trial
from disttune.strategy.tuning import Sensitivity, Tuning

Configs = Mapping[str, OpConfig]
Measured = Literal["error", "metric"]
FLOAT = "float"
MEASURED_ANEW = ("bias_correction",)  # recipes that need runs of each model


@dataclass(frozen=True)
class GroupChoice:
    """One precision of a group.

    Args:
        name: of the precision.
        configs: op of the group to its config.
        value: cost and noise; the noise is 0 until it is measured.
    """

    name: str
    configs: Configs
    value: Choice


Group = tuple[GroupChoice, ...]  # what it can be, the cheapest first; float last


def group_choices(
    tuning: Tuning, space: Space, base: Candidate, names: Sequence[str], costs: CostModel
) -> list[Group]:
    """The choices of every group of the ops that a candidate, or the job's default, quantizes.

    Args:
        tuning: has the summary.
        space: with the configs of precisions.
        base: its config, or else an option of the space, stands for the precision that it is of.
        names: of the precisions; float is always one.
        costs: of configs.
    """
    groups = []
    quantized = {*tuning.space.default_candidate().quantized_ops, *base.quantized_ops}
    for ops in quantizer_groups(tuning.summary, quantized):
        found: dict[tuple[OpConfig, ...], GroupChoice] = {}
        for name in (*names, FLOAT):
            configs = configs_of(space, base, ops, name)
            if configs is not None:
                cost = sum(costs.of(op, config) for op, config in configs.items())
                found.setdefault(tuple(configs.values()), GroupChoice(name, configs, Choice(cost, 0.0)))
        groups.append(tuple(sorted(found.values(), key=lambda c: (c.name == FLOAT, c.value.cost))))
    return groups


def configs_of(space: Space, base: Candidate, ops: Sequence[str], name: str) -> Configs | None:
    """Config of each op of a group in a precision; None when no op can have it.

    An op that cannot keeps what it has beside coded data, and is in float beside float data.
    """
    if name == FLOAT:
        return dict.fromkeys(ops, FLOAT32)
    found = {op: _config_of(space, base, op, name) for op in ops}
    if not any(found.values()):
        return None
    return {op: config or (base.config_of(op) if "A" in name else FLOAT32) for op, config in found.items()}


def _config_of(space: Space, base: Candidate, op: str, name: str) -> OpConfig | None:
    if is_of(base.config_of(op), name):
        return base.config_of(op)
    for config in space.options[op]:
        if is_of(config, name):
            return _rounded_like(config, base.config_of(op))
    precision = space.precisions.get(name)
    found = precision.configs.get(op) if precision else None
    return None if found is None else _rounded_like(found, base.config_of(op))


def _rounded_like(config: OpConfig, base: OpConfig) -> OpConfig:
    """A config with the weight algorithm of the base, where both quantize their activations alike."""
    weight, other = config.weight, base.weight
    if weight is None or other is None or other.method not in WEIGHT_METHODS:
        return config
    if config.approach != base.approach:
        return config
    return replace(config, weight=replace(weight, method=other.method, parameter=None, options=other.options))


def measured_groups(
    tuning: Tuning, base: Candidate, groups: Sequence[Group], by: Measured, n_feeds: int
) -> Generator[Stage, StageResult, list[Group]]:
    """The groups with the noise of each choice, measured at the same time; those that failed are left out.

    Args:
        tuning: is told what failed.
        base: whose recipes hold, but for those of `MEASURED_ANEW`.
        groups: as `group_choices` gives them.
        by: "error": mean squared error of the outputs over their variance, by probes; "metric": what the
            metric loses, by trials.
        n_feeds: of calibration, for "error".
    """
    in_float = _cheap_to_build(base).in_float(*base.quantized_ops)
    places = [
        (g, c) for g, group in enumerate(groups) for c, choice in enumerate(group) if choice.name != FLOAT
    ]
    alone = [in_float.with_configs(groups[g][c].configs) for g, c in places]
    name = "each precision of each group alone"
    noise: list[float | None]
    if by == "metric":
        result = yield Stage(name, alone, goal_stops=False)
        noise = [loss_of(tuning, trial) for trial in result.trials]
    else:
        result = yield Stage(name, [Probe("fallback_mse", {"n_feeds": n_feeds}, one) for one in alone])
        noise = [number(value) for value in result.probes]
    known = {place: max(0.0, n) for place, n in zip(places, noise, strict=False) if n is not None}
    tuning.sensitivity[:] = sorted(
        (Sensitivity(tuple(groups[g][c].configs), groups[g][c].name, n) for (g, c), n in known.items()),
        key=lambda row: -row.loss,
    )
    if len(known) < len(places):
        tuning.note(f"{name}: {len(places) - len(known)} of {len(places)} failed and are left out")
    return [
        tuple(
            GroupChoice(c.name, c.configs, Choice(c.value.cost, known.get((g, i), 0.0)))
            for i, c in enumerate(group)
            if c.name == FLOAT or (g, i) in known
        )
        for g, group in enumerate(groups)
    ]


def _cheap_to_build(base: Candidate) -> Candidate:
    """Without what measures every model anew: it would take longer than the probes."""
    return Candidate.of(base.configs(), {r: v for r, v in base.recipes if r not in MEASURED_ANEW})


def loss_of(tuning: Tuning, trial: Trial) -> float | None:
    """What a trial's metric loses against the float model's; None without a metric."""
    if trial.metric is None:
        return None
    loss = tuning.goal.baseline_metric - trial.metric
    return loss if tuning.goal.higher_is_better else -loss
