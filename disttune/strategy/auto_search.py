"""Auto Search: a space of whole-model configs by Quark's keys, cheapest first or in a seeded random order.

1. grid_search or random: one stage over every config, lazily;
2. two_stage_search: the configs without fine-tuning, then every fine-tuning setting on the best of them;
3. advanced_fastft_search: the same first stage, then a sampler over iterations and learning rate.

Combinations that change nothing are filtered before anything runs and counted by reason; configs that make
the same candidate run once. The first stage of 2 and 3 never stops at the goal: it seeks the best.

Source: AMD Quark, ONNX, Auto Search. What we do differently: options do not leak from one config to the next,
stages run in parallel, samplers learn from trial to trial, metrics have a direction.
"""

import math
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from disttune.config.auto_search_keys import DEFAULT_SPACE, WHERE, read_search_space
from disttune.config.errors import InputError
from disttune.config.nearest import unknown_name
from disttune.space.candidate import Candidate
from disttune.space.tree import count_text
from disttune.strategy.auto_search_candidates import ConfigCandidates, in_words
from disttune.strategy.auto_search_space import (
    AUTO_MP,
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
LISTED = 1024  # configs of a stage that is known whole, so that the longest may start first
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
        candidates = ConfigCandidates(tuning)
        spaces = _told(self.spaces, tuning)
        if not (self.two_stage or self.advanced):
            result = yield _stage("auto search", candidates, self._ordered(spaces, tuning), spaces.size)
            self._best(result, candidates, self._ordered(spaces, tuning), tuning)
            return
        plain = spaces.each(ConfigSpace.without_fine_tuning)
        result = yield replace(
            _stage("auto search, calibration", candidates, self._ordered(plain, tuning), plain.size),
            goal_stops=False,
        )
        best = self._best(result, candidates, self._ordered(plain, tuning), tuning)
        if best is None:
            return
        fine = spaces.fine_tuning
        if not fine:
            tuning.note("auto search: no fine-tuning, the search space holds no include_fast_ft = true")
        elif self.advanced:
            yield from self._sampled(best, fine, candidates, tuning)
        else:
            configs = [{**best, **dict(setting)} for setting in fine]
            result = yield _stage("auto search, fine-tuning", candidates, configs, len(configs))
            self._best(result, candidates, configs, tuning)

    def _ordered(self, spaces: ConfigSpaces, tuning: Tuning) -> Iterator[Config]:
        if self.search_algo == "random":
            return spaces.in_random_order(tuning.seed)
        return spaces.cheapest_first()

    def _best(
        self,
        result: StageResult,
        candidates: ConfigCandidates,
        configs: Iterable[Config],
        tuning: Tuning,
    ) -> Config | None:
        """The config of a stage's best trial, which is told; None where none has a metric."""
        trial = next((t for i in result.best_first()[:1] if (t := result.trials[i]).metric is not None), None)
        if trial is None:
            tuning.note(f"{result.name}: no config has a metric")
            return None
        found = next((c for c in configs if candidates.candidate(c) == trial.candidate), None)
        if found is not None:
            tuning.note(f"{result.name}, the best: {in_words(found)}")
        return found

    def _sampled(
        self, best: Config, fine: Sequence[Setting], candidates: ConfigCandidates, tuning: Tuning
    ) -> Generator[Stage, StageResult, None]:
        box = Box.of(fine)
        if box is None:
            tuning.note("auto search: no fine-tuning search, NumIterations or LearningRate is missing")
            return
        base = {**best, **dict(fine[0])}
        n_left = self.fastft["n_trials"]
        batch = max(1, min(tuning.batch_size, math.ceil(n_left / N_BATCHES)))
        sampler = asker(self.fastft["sampler_algo"], box, tuning.seed, batch)
        known: dict[Candidate, Trial] = {}
        number = 0
        while n_left > 0:
            asked = [candidates.candidate(tuned(base, sampler.ask())) for _ in range(min(batch, n_left))]
            n_left -= len(asked)
            new = [c for c in dict.fromkeys(asked) if c not in known]
            if new:
                number += 1
                name = f"auto search, {self.fastft['sampler_algo']} over fine-tuning, batch {number}"
                result = yield Stage(name, new)
                known |= {t.candidate: t for t in result.trials}
            sign = -1.0 if tuning.goal.higher_is_better else 1.0
            for candidate in asked:
                trial = known.get(candidate)
                metric = trial.metric if trial else None
                sampler.tell(None if metric is None else sign * metric)


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
    used = {k: why for k, why in WITHOUT_COUNTERPART.items() if spaces.name(k)}
    able = spaces.each(lambda space: space.without_keys(used)) if used else spaces
    if used:
        why = ", ".join(f"{key} ({reason})" for key, reason in used.items())
        tuning.note(f"auto search: {count_text(able.size)} differ here, without {why}")
    runnable = able.each(ConfigSpace.without_auto_mp)
    if skipped := able.size - runnable.size:
        tuning.note(f"auto search: {count_text(skipped)} are skipped, {AUTO_MP}")
    if not runnable.size:
        raise InputError(f"{WHERE}: search_space leaves nothing to run, {AUTO_MP}")
    return runnable


def _stage(name: str, candidates: ConfigCandidates, configs: Iterable[Config], size: int) -> Stage:
    items = _distinct(map(candidates.candidate, configs))
    return Stage(name, list(items) if size <= LISTED else items)


def _distinct(candidates: Iterable[Candidate]) -> Iterator[Candidate]:
    """Each candidate once: e.g. types of 16 bits are the same with every method."""
    seen = set()
    for candidate in candidates:
        if candidate.digest not in seen:
            seen.add(candidate.digest)
            yield candidate
