"""An Optuna sampler over a grid, asked and told by `batches.sample`. Optuna is imported when one is made."""

from __future__ import annotations

import warnings
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from disttune.space.dimensions import Dimensions, Point
from disttune.strategy.trial import Trial

if TYPE_CHECKING:
    from collections.abc import Iterator

    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial

Values = Callable[[Trial], Sequence[float] | None]
CONSTRAINTS_KEY = "constraints"  # as Optuna's own samplers name it


class OptunaSampler:
    """See `batches.Sampler`.

    Args:
        make: makes the sampler.
        grid: of the points.
        values: what is to be minimised; None for a trial that failed.
        n_values: how many numbers those are.
        ordered: whether options are codes with an order and a distance, instead of plain names.
        constraints: numbers of a trial that must not exceed 0; the sampler reads them with
            `read_constraints`.
    """

    def __init__(
        self,
        make: Callable[[], BaseSampler],
        grid: Dimensions,
        values: Values,
        n_values: int = 1,
        ordered: bool = False,
        constraints: Values | None = None,
    ):
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._optuna = optuna
        self._grid = grid
        self._values = values
        self._constraints = constraints
        with _quiet():
            self._study = optuna.create_study(sampler=make(), directions=["minimize"] * n_values)
        self._distributions: dict[str, BaseDistribution] = {
            name: _distribution(n, ordered) for name, n in zip(grid.names, grid.sizes, strict=True)
        }
        self._open: dict[Point, deque[Any]] = defaultdict(deque)

    def ask(self) -> Point:
        with _quiet():
            asked = self._study.ask(self._distributions)
        point = tuple(int(asked.params[name]) for name in self._grid.names)
        self._open[point].append(asked)
        return point

    def tell(self, point: Point, trial: Trial) -> None:
        asked = self._open[point].popleft()
        values = self._values(trial)
        is_as_asked = trial.candidate == self._grid.candidate(point)
        asked.set_user_attr(CONSTRAINTS_KEY, self._constraints_of(trial))
        with _quiet():
            if values is not None and is_as_asked:
                self._study.tell(asked, list(values))
            else:
                self._study.tell(asked, state=self._optuna.trial.TrialState.FAIL)
        if not is_as_asked:
            self.observe(trial)

    def observe(self, trial: Trial) -> None:
        """Learn from a trial that was not asked for here."""
        point, values = self._grid.find(trial.candidate), self._values(trial)
        if point is None or values is None:
            return
        with _quiet():
            observed = self._optuna.create_trial(
                params=dict(zip(self._grid.names, point, strict=True)),
                distributions=self._distributions,
                values=list(values),
                system_attrs={CONSTRAINTS_KEY: self._constraints_of(trial)},
            )
            self._study.add_trial(observed)

    def _constraints_of(self, trial: Trial) -> list[float]:
        return list(self._constraints(trial) or ()) if self._constraints is not None else []


def read_constraints(trial: FrozenTrial) -> Sequence[float]:
    """`constraints_func` of a sampler."""
    constraints: list[float] = trial.user_attrs[CONSTRAINTS_KEY]
    return constraints


def _distribution(n_options: int, ordered: bool) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, IntDistribution

    return IntDistribution(0, n_options - 1) if ordered else CategoricalDistribution(range(n_options))


@contextmanager
def _quiet() -> Iterator[None]:
    """Samplers that Optuna calls experimental are ours to judge."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
