"""Auto Search: a space of whole-model configs by Quark's keys, cheapest first or in a seeded random order.

1. grid_search or random: one stage over every config, lazily;
2. two_stage_search: the configs without fine-tuning, then every fine-tuning setting on the best of them;
3. advanced_fastft_search: the same first stage, then a sampler over iterations and learning rate;
4. where a space holds include_auto_mp = true and no config meets the goal, mixed precision from the best one
   on (see `amp`): the cheapest mix that meets the goal.

Combinations that change nothing are filtered before anything runs and counted by reason; configs that make
the same candidate run once. The first stage of 2 and 3 never stops at the goal: it seeks the best.

Source: AMD Quark, ONNX, Auto Search. What we do differently: options do not leak from one config to the next,
stages run in parallel, samplers learn from trial to trial, metrics have a direction.
"""

import math
from collections.abc import Generator, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from disttune.config.auto_search_keys import DEFAULT_SPACE, WHERE, read_search_space
from disttune.config.errors import InputError
from disttune.config.nearest import unknown_name
from disttune.space.candidate import Candidate
from disttune.space.tree import count_text
from disttune.strategy.amp import Amp
from disttune.strategy.auto_search_run import ConfigRun
from disttune.strategy.auto_search_space import (
    WITHOUT_COUNTERPART,
    Config,
    ConfigSpace,
    ConfigSpaces,
    Setting,
)
from disttune.strategy.fine_tuning import SAMPLER_NAMES, Box, asker, require_packages, tuned
from disttune.strategy.registry import register_strategy
from disttune.strategy.stage import Stage, StageResult
from disttune.strategy.trial import Trial
from disttune.strategy.tuning import Tuning

ALGORITHMS = ("grid_search", "random")
DIRECTIONS = {"minimize": False, "maximize": True}
FASTFT_DEFAULTS: Mapping[str, Any] = {"sampler_algo": "TPE", "direction": None, "n_trials": 10}
N_BATCHES = 3  # at least, of a sampler: it learns from one to the next


@register_strategy("auto_search")
class AutoSearch:
    """See the head of this file.

    Args:
        search_space: one table or a list of them; None: the default space, 589,824 combinations.
        search_algo: "grid_search" (cheapest first) or "random" (by the job's seed).
        two_stage_search: case 2.
        advanced_fastft_search: case 3.
        advanced_fastft_params: sampler_algo ("TPE"; also Random, CmaEs, GPS, NSGAII, QMC), n_trials (10),
            direction (that of the metric; another one is refused).
    Raises:
        InputError: a key or value is wrong.
    """

    def __init__(
        self,
        search_space: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
        search_algo: str = "grid_search",
        two_stage_search: bool = False,
        advanced_fastft_search: bool = False,
        advanced_fastft_params: Mapping[str, Any] | None = None,
    ):
        if search_algo not in ALGORITHMS:
            raise InputError(f"{WHERE}: {unknown_name('search_algo', str(search_algo), ALGORITHMS)}")
        self.spaces = _spaces(search_space)
        self.search_algo = search_algo
        self.two_stage = _flag("two_stage_search", two_stage_search)
        self.advanced = _flag("advanced_fastft_search", advanced_fastft_search)
        self.fastft = _fastft_params(advanced_fastft_params or {})
        if self.advanced:
            require_packages(self.fastft["sampler_algo"])

    def stages(self, tuning: Tuning) -> Generator[Stage, StageResult, None]:
        _check_direction(self.fastft["direction"], tuning)
        run = ConfigRun(tuning)
        spaces = _told(self.spaces, tuning)
        if self.two_stage or self.advanced:
            yield from self._staged(run, spaces)
        else:
            yield from run.stage("auto search", lambda: self._ordered(spaces, tuning), spaces.size)
        if run.best is not None and self.spaces.has(("include_auto_mp", True)):
            yield from _mixed_precision(run.best.trial, tuning)

    def _staged(self, run: ConfigRun, spaces: ConfigSpaces) -> Generator[Stage, StageResult, None]:
        """Cases 2 and 3."""
        plain, fine = spaces.each(ConfigSpace.without_fine_tuning), spaces.fine_tuning
        yield from run.stage(
            "auto search, calibration", lambda: self._ordered(plain, run.tuning), plain.size, goal_stops=False
        )
        if run.best is None:
            return
        best = run.best.config
        if not fine:
            run.tuning.note("auto search: no fine-tuning, the search space holds no include_fast_ft = true")
        elif self.advanced:
            yield from self._sampled(run, best, fine)
        else:
            configs = [{**best, **dict(setting)} for setting in fine]
            yield from run.stage("auto search, fine-tuning", lambda: configs, len(configs))

    def _ordered(self, spaces: ConfigSpaces, tuning: Tuning) -> Iterator[Config]:
        if self.search_algo == "random":
            return spaces.in_random_order(tuning.seed)
        return spaces.cheapest_first()

    def _sampled(
        self, run: ConfigRun, best: Config, fine: Sequence[Setting]
    ) -> Generator[Stage, StageResult, None]:
        box = Box.of(fine)
        if box is None:
            run.tuning.note("auto search: no fine-tuning search, NumIterations or LearningRate is missing")
            return
        name, n_left = self.fastft["sampler_algo"], self.fastft["n_trials"]
        batch = max(1, min(run.tuning.batch_size, math.ceil(n_left / N_BATCHES)))
        sampler = asker(name, box, run.tuning.seed, batch)
        base = {**best, **dict(fine[0])}
        known: dict[Candidate, float | None] = {}
        while n_left > 0:
            configs = [tuned(base, sampler.ask()) for _ in range(min(batch, n_left))]
            n_left -= len(configs)
            new = [c for c in configs if run.candidate(c) not in known]
            if new:
                title = f"auto search, {name} over fine-tuning, {n_left} points left"
                known |= yield from run.stage(title, partial(iter, new), len(new))
            for config in configs:
                sampler.tell(known.get(run.candidate(config)))


def _mixed_precision(best: Trial, tuning: Tuning) -> Generator[Stage, StageResult, None]:
    """Case 4; the cheapest mix is preferred."""
    if best.meets_goal:
        tuning.note("auto search: no mixed precision, the best config meets the goal")
        return
    mix = yield from Amp().search(tuning, tuning.space, best.candidate)
    for trial in tuning.trials:
        if trial.candidate == mix and trial.meets_goal:
            tuning.prefer(trial)


def _spaces(given: Any) -> ConfigSpaces:
    listed = given if isinstance(given, list | tuple) else [DEFAULT_SPACE if given is None else given]
    if not listed:
        raise InputError(f"{WHERE}: search_space is empty; give a table or leave it out")
    names = [f"search_space[{i}]" for i in range(len(listed))] if len(listed) > 1 else ["search_space"]
    return ConfigSpaces(
        tuple(
            ConfigSpace.of(read_search_space(s, f"{WHERE}: {name}"))
            for s, name in zip(listed, names, strict=True)
        )
    )


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise InputError(f"{WHERE}: {name} must be true or false; {value!r} was given")
    return value


def _fastft_params(given: Any) -> dict[str, Any]:
    where = f"{WHERE}: advanced_fastft_params"
    if not isinstance(given, Mapping):
        raise InputError(f"{where} must be a table; {given!r} was given")
    for key in given:
        if key not in FASTFT_DEFAULTS:
            raise InputError(f"{where}: {unknown_name('key', str(key), FASTFT_DEFAULTS)}")
    params = {**FASTFT_DEFAULTS, **given}
    if params["sampler_algo"] not in SAMPLER_NAMES:
        raise InputError(
            f"{where}: {unknown_name('sampler_algo', str(params['sampler_algo']), SAMPLER_NAMES)}"
        )
    if params["direction"] not in (None, *DIRECTIONS):
        raise InputError(f"{where}: {unknown_name('direction', str(params['direction']), DIRECTIONS)}")
    n_trials = params["n_trials"]
    if isinstance(n_trials, bool) or not isinstance(n_trials, int) or n_trials < 1:
        raise InputError(f"{where}.n_trials must be a whole number of at least 1; {n_trials!r} was given")
    return params


def _check_direction(direction: str | None, tuning: Tuning) -> None:
    if direction is not None and DIRECTIONS[direction] != tuning.goal.higher_is_better:
        better = "higher" if tuning.goal.higher_is_better else "lower"
        raise InputError(
            f'{WHERE}: advanced_fastft_params.direction = "{direction}", but of the metric {better} is '
            "better; leave it out, or mend evaluation.higher_is_better"
        )


def _told(spaces: ConfigSpaces, tuning: Tuning) -> ConfigSpaces:
    """What can run of the spaces, told with counts."""
    removed = "; ".join(f"{count_text(n)} {reason}" for reason, n in spaces.removed.items())
    found = f"auto search: {count_text(spaces.raw)} combinations, {count_text(spaces.size)} of them distinct"
    tuning.note(f"{found} (filtered: {removed})" if removed else found)
    if not spaces.size:
        raise InputError(f"{WHERE}: search_space leaves nothing to run ({removed})")
    used = {k: why for k, why in WITHOUT_COUNTERPART.items() if spaces.names(k)}
    if not used:
        return spaces
    able = spaces.each(lambda space: space.without_keys(used))
    why = "; ".join(f"{key}: {reason}" for key, reason in used.items())
    tuning.note(f"auto search: {count_text(able.size)} differ here ({why})")
    return able
