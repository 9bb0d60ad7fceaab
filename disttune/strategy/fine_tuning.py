"""Samplers over the iterations and learning rate of fine-tuned rounding: asked in batches, told in order.

Iterations are whole steps between the least and the greatest that a space lists, the learning rate is on a
logarithmic scale between them, the algorithm is one of those listed. Optuna's samplers, and `GPS`, a Gaussian
process with expected improvement. All of them minimise.
"""

from __future__ import annotations

import math
import random
import warnings
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from disttune.config.auto_search_keys import DEFAULT_ALGORITHM
from disttune.strategy.auto_search_space import Config, Setting
from disttune.strategy.extras import require

if TYPE_CHECKING:
    from collections.abc import Iterator

    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler

Point = tuple[str, int, float]  # algorithm, iterations, learning rate
LONG_STEP, SHORT_STEP = 1000, 10
N_DRAWN = 2000  # points among which GPS seeks the greatest improvement
EXTRAS = {"CmaEs": ("cmaes", "samplers"), "QMC": ("scipy", "samplers"), "GPS": ("sklearn", "bayesian")}


@dataclass(frozen=True)
class Box:
    """What may be asked for.

    Args:
        algorithms: at least one.
        iterations: least and greatest.
        rates: least and greatest learning rate, more than 0.
    """

    algorithms: tuple[str, ...]
    iterations: tuple[int, int]
    rates: tuple[float, float]

    @classmethod
    def of(cls, settings: Iterable[Setting]) -> Box | None:
        """The box around fine-tuning settings; None where they name no iterations or no learning rate."""
        chosen = [dict(s) for s in settings]
        pairs = [pair for c in chosen if isinstance(pair := c.get("NumIterLR"), tuple)]
        iterations = [int(n) for n in [*(pair[0] for pair in pairs), *_numbers(chosen, "NumIterations")]]
        rates = [*(pair[1] for pair in pairs), *_numbers(chosen, "LearningRate")]
        if not iterations or not rates:
            return None
        algorithms = dict.fromkeys(str(c.get("OptimAlgorithm", DEFAULT_ALGORITHM)) for c in chosen)
        return cls(tuple(algorithms), (min(iterations), max(iterations)), (min(rates), max(rates)))

    @property
    def step(self) -> int:
        """Between two numbers of iterations."""
        return LONG_STEP if self.iterations[1] - self.iterations[0] >= LONG_STEP else SHORT_STEP

    @property
    def n_steps(self) -> int:
        return (self.iterations[1] - self.iterations[0]) // self.step

    def point(self, algorithm: int, step: int, share: float) -> Point:
        """A point by the number of its algorithm, its steps above the least, and the share of the rates'
        logarithms."""
        low, high = map(math.log, self.rates)
        rate = min(max(math.exp(low + share * (high - low)), self.rates[0]), self.rates[1])
        return self.algorithms[algorithm], self.iterations[0] + step * self.step, float(f"{rate:.6g}")


def _numbers(chosen: Iterable[Config], key: str) -> list[float]:
    return [value for c in chosen if isinstance(value := c.get(key), int | float)]


class Asker(Protocol):
    """A sampler: asked and told in the same order in every run of a job."""

    def ask(self) -> Point: ...

    def tell(self, value: float | None) -> None:
        """What became of the earliest point not yet told; less is better, None: it failed."""


def asker(name: str, box: Box, seed: int, batch: int) -> Asker:
    """The sampler of a name, a key of `SAMPLERS`.

    Args:
        name: TPE, Random, CmaEs, GPS, NSGAII or QMC.
        box: what may be asked for.
        seed: of its random choices.
        batch: points that are asked for before any is told.
    """
    if name == "GPS":
        return _GaussianProcess(box, seed, batch)
    return _Optuna(box, lambda: SAMPLERS[name](seed, batch))


def require_packages(name: str) -> None:
    """Check that a sampler's packages are there.

    Raises:
        InputError: one is missing.
    """
    module, extra = EXTRAS.get(name, ("optuna", None))
    require(f"auto_search with sampler_algo {name}", module, extra)


def tuned(config: Config, point: Point) -> Config:
    """A config with a point's values."""
    others = {k: v for k, v in config.items() if k != "NumIterLR"}
    return others | {"OptimAlgorithm": point[0], "NumIterations": point[1], "LearningRate": point[2]}


class _Optuna:
    def __init__(self, box: Box, make: Callable[[], BaseSampler]):
        import optuna
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._optuna, self._box = optuna, box
        with _quiet():
            self._study = optuna.create_study(sampler=make(), direction="minimize")
        free: dict[str, BaseDistribution] = {}
        if len(box.algorithms) > 1:
            free["algorithm"] = CategoricalDistribution(range(len(box.algorithms)))
        if box.n_steps:
            free["step"] = IntDistribution(0, box.n_steps)
        if box.rates[0] < box.rates[1]:
            free["share"] = FloatDistribution(0.0, 1.0)
        self._free = free
        self._open: deque[Any] = deque()

    def ask(self) -> Point:
        with _quiet():
            asked = self._study.ask(self._free)
        self._open.append(asked)
        p = asked.params
        return self._box.point(p.get("algorithm", 0), p.get("step", 0), p.get("share", 0.0))

    def tell(self, value: float | None) -> None:
        asked = self._open.popleft()
        with _quiet():
            if value is None:
                self._study.tell(asked, state=self._optuna.trial.TrialState.FAIL)
            else:
                self._study.tell(asked, value)


class _GaussianProcess:
    """The first batch at random, then the greatest expected improvement; a point that is asked for counts
    as the best one until it is told (constant liar)."""

    def __init__(self, box: Box, seed: int, batch: int):
        self._box, self._n_random = box, batch
        self._rng = random.Random(f"fine-tuning {seed}")
        self._known: list[tuple[tuple[float, ...], float]] = []
        self._open: deque[tuple[float, ...]] = deque()

    def ask(self) -> Point:
        drawn = [self._drawn() for _ in range(N_DRAWN)]
        start = len(self._known) + len(self._open) < self._n_random or not self._known
        place = drawn[0] if start else self._improving(drawn)
        self._open.append(place)
        return self._point(place)

    def tell(self, value: float | None) -> None:
        place = self._open.popleft()
        worst = min((score for _, score in self._known), default=0.0)
        self._known.append((place, worst if value is None else -value))

    def _drawn(self) -> tuple[float, ...]:
        """Coordinates from 0 to 1, on the places that stand for different points."""
        box, rng = self._box, self._rng
        n = max(1, len(box.algorithms) - 1)
        algorithm = rng.randrange(len(box.algorithms)) / n
        return algorithm, rng.randint(0, box.n_steps) / max(1, box.n_steps), rng.random()

    def _point(self, place: tuple[float, ...]) -> Point:
        box = self._box
        return box.point(round(place[0] * (len(box.algorithms) - 1)), round(place[1] * box.n_steps), place[2])

    def _improving(self, drawn: list[tuple[float, ...]]) -> tuple[float, ...]:
        import numpy as np
        from threadpoolctl import threadpool_limits

        from disttune.strategy.gaussian_process import expected_improvement, fitted, with_points

        places = [place for place, _ in self._known]
        scores = [score for _, score in self._known]
        with threadpool_limits(1), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the fit's convergence
            process = fitted(np.array(places), scores)
            if self._open:
                lies = [max(scores)] * len(self._open)
                process = with_points(process, np.array([*places, *self._open]), [*scores, *lies])
            return drawn[int(np.argmax(expected_improvement(process, np.array(drawn), max(scores))))]


def _tpe(seed: int, batch: int) -> BaseSampler:
    from optuna.samplers import TPESampler

    return TPESampler(seed=seed, n_startup_trials=batch, multivariate=True, constant_liar=True)


def _random(seed: int, _batch: int) -> BaseSampler:
    from optuna.samplers import RandomSampler

    return RandomSampler(seed=seed)


def _cma_es(seed: int, batch: int) -> BaseSampler:
    from optuna.samplers import CmaEsSampler

    return CmaEsSampler(
        seed=seed,
        n_startup_trials=1,
        popsize=max(batch, 4),
        independent_sampler=_random(seed, batch),
        warn_independent_sampling=False,
    )


def _nsga_ii(seed: int, batch: int) -> BaseSampler:
    from optuna.samplers import NSGAIISampler

    return NSGAIISampler(population_size=max(batch, 2), seed=seed)


def _qmc(seed: int, batch: int) -> BaseSampler:
    from optuna.samplers import QMCSampler

    return QMCSampler(
        scramble=True,
        seed=seed,
        independent_sampler=_random(seed, batch),
        warn_asynchronous_seeding=False,
        warn_independent_sampling=False,
    )


SAMPLERS: dict[str, Callable[[int, int], BaseSampler]] = {
    "TPE": _tpe,
    "Random": _random,
    "CmaEs": _cma_es,
    "NSGAII": _nsga_ii,
    "QMC": _qmc,
}
SAMPLER_NAMES = (*SAMPLERS, "GPS")


@contextmanager
def _quiet() -> Iterator[None]:
    """Samplers that Optuna calls experimental are ours to judge."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
