"""Base class for strategies in the form of Intel Neural Compressor: `next_tune_cfg` generates configs.

    from disttune import TuneStrategy

    class OneByOne(TuneStrategy):
        def next_tune_cfg(self):
            best, kept = (yield self.default), self.default
            for op in self.default.quantized_ops:
                result = yield kept.in_float(op)
                if result.metric is not None and result.metric > best.metric:
                    best, kept = result, kept.in_float(op)

It runs in the scheduler like any other strategy: on all ranks, with every budget and stop, and it resumes.
"""

from collections.abc import Generator, Iterable, Iterator, Mapping
from typing import Any, ClassVar

from disttune.config.algorithms import AlgorithmConfig
from disttune.config.errors import UserCodeError
from disttune.config.schemes import OpConfig
from disttune.space.candidate import Candidate
from disttune.space.space import Space
from disttune.strategy.config_candidates import candidate_of
from disttune.strategy.stage import Stage, StageResult
from disttune.strategy.trial import Trial
from disttune.strategy.tuning import Tuning

TuneConfig = Candidate | AlgorithmConfig | Mapping[str, OpConfig]


class TuneStrategy:
    """Derive from it and write `next_tune_cfg`; keywords of `__init__` are the `strategy_kwargs`.

    Args of the class:
        batch_size: configs that are measured at the same time before the generator goes on.
            1: each `yield` gives the trial of the config it yielded.
            n: each `yield` gives the last trial of the batch before, None in the first one.
            None: no config depends on a result; as many at the same time as there are ranks.
        goal_stops: whether a trial that meets the goal ends the search.

    Attributes:
        tuning: space, goal, summary of the model, seed.
        last_tune_result: what the last `yield` gave.
        results: all trials so far, in order; with batch_size None not before the end.
    """

    batch_size: ClassVar[int | None] = 1
    goal_stops: ClassVar[bool] = True
    tuning: Tuning
    last_tune_result: Trial | None = None
    results: list[Trial]

    def next_tune_cfg(self) -> Generator[TuneConfig, Trial | None, None] | Iterable[TuneConfig]:
        """Generate what is to be tried.

        Yields:
            A Candidate; an algorithm config such as StaticQuantConfig; or {op name: OpConfig}, for the
            ops that differ from the default candidate.
        """
        raise NotImplementedError(f"{type(self).__name__} has no next_tune_cfg")

    def traverse(self) -> Generator[Stage, StageResult, None]:
        """Optional: the stages themselves; as it is, it goes through `next_tune_cfg`."""
        configs = iter(self.next_tune_cfg())
        if self.batch_size is None:
            everything = (as_candidate(config, self) for config in configs)
            result = yield Stage("configs", everything, goal_stops=self.goal_stops)
            self._take(result)
            return
        n_batches = 0
        while batch := list(self._next_batch(configs, self.batch_size)):
            n_batches += 1
            name = "config" if self.batch_size == 1 else "batch of configs"
            result = yield Stage(f"{name} {n_batches}", batch, goal_stops=self.goal_stops)
            self._take(result)

    def stages(self, tuning: Tuning) -> Generator[Stage, StageResult, None]:
        """What the scheduler calls."""
        self.tuning, self.results, self.last_tune_result = tuning, [], None
        yield from self.traverse()

    @property
    def space(self) -> Space:
        return self.tuning.space

    @property
    def default(self) -> Candidate:
        """Every op as its first option says."""
        return self.space.default_candidate()

    @property
    def best(self) -> Trial | None:
        """The best trial so far."""
        return self.tuning.best_of(self.results)

    def _next_batch(self, configs: Iterator[TuneConfig], n: int) -> Iterator[Candidate]:
        for _ in range(n):
            try:
                config = (
                    configs.send(self.last_tune_result) if isinstance(configs, Generator) else next(configs)
                )
            except StopIteration:
                return
            yield as_candidate(config, self)

    def _take(self, result: StageResult) -> None:
        self.results += result.trials
        if result.trials:
            self.last_tune_result = result.trials[-1]


def as_candidate(config: Any, strategy: TuneStrategy) -> Candidate:
    """The candidate that a config stands for.

    Raises:
        UserCodeError: it stands for none.
    """
    if isinstance(config, Candidate):
        return config
    if isinstance(config, AlgorithmConfig):
        return candidate_of(config, strategy.tuning)
    if isinstance(config, Mapping) and all(isinstance(c, OpConfig) for c in config.values()):
        return strategy.default.with_configs(config)
    raise UserCodeError(
        f"strategy {type(strategy).__name__}: next_tune_cfg yields candidates, algorithm configs or "
        f"{{op name: OpConfig}}; it yielded {config!r}"
    )
