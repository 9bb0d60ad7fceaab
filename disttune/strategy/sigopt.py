"""SigOpt's form of search: accuracy as a constraint with the goal as threshold, the latency minimised.

With a job's objective other than "first", that one is minimised.

It runs locally, on Optuna's constrained TPE over the same dimensions as tpe: the hosted service was
discontinued by its owner. With the client installed, a token and the address of a server of one's own,
that one is asked instead (`sigopt_server.py`); when it fails, that is told once and the local search
goes on.

Source: INC 2.6, sigopt. What we do differently: no token is needed.
"""

import threading
from collections.abc import Generator

from disttune.config.errors import InputError
from disttune.space.dimensions import Dimensions, Point
from disttune.strategy.batches import Sampler, sample
from disttune.strategy.extras import require
from disttune.strategy.grid import check_level, sampler_grid
from disttune.strategy.loss import latency_cost, shortfall
from disttune.strategy.optuna_sampler import OptunaSampler, read_constraints
from disttune.strategy.registry import register_strategy
from disttune.strategy.sigopt_server import SigoptServer
from disttune.strategy.stage import Stage, StageResult
from disttune.strategy.trial import Trial
from disttune.strategy.tuning import Tuning


@register_strategy("sigopt")
class Sigopt:
    """See the head of this file.

    Args:
        sigopt_api_token: of the server.
        sigopt_project_id: of the server.
        sigopt_experiment_name: under which the server shows the search.
        sigopt_api_url: address of the server; without it the search is local.
        sigopt_api_timeout: seconds that the server may take for an answer, > 0.
        level: "op" or "op_type" dimensions; by default by op unless more than 30 have options.
    """

    def __init__(
        self,
        sigopt_api_token: str | None = None,
        sigopt_project_id: str | None = None,
        sigopt_experiment_name: str = "disttune",
        sigopt_api_url: str | None = None,
        sigopt_api_timeout: float = 20.0,
        level: str | None = None,
    ):
        check_level(level, "sigopt")
        require("sigopt", "optuna")
        if isinstance(sigopt_api_timeout, bool) or not 0 < sigopt_api_timeout <= threading.TIMEOUT_MAX:
            raise InputError(
                "[tuning] strategy_kwargs, strategy sigopt: sigopt_api_timeout must be a number of seconds, "
                f"more than 0; {sigopt_api_timeout!r} was given"
            )
        self.token = sigopt_api_token
        self.project = sigopt_project_id
        self.experiment = sigopt_experiment_name
        self.url = sigopt_api_url
        self.timeout_s = sigopt_api_timeout
        self.level = level

    def stages(self, tuning: Tuning) -> Generator[Stage, StageResult, None]:
        tuning.ask_for_latency()
        grid = sampler_grid(tuning.space, self.level)
        local = local_sampler(tuning, grid)
        yield from sample(tuning, grid, self._server(tuning, grid, local) or local, "sigopt")

    def _server(self, tuning: Tuning, grid: Dimensions, local: OptunaSampler) -> Sampler | None:
        if self.token is None or self.url is None:
            if self.token is not None or self.project is not None:
                tuning.note("sigopt: without sigopt_api_token and sigopt_api_url the search is local")
            return None
        try:
            server = SigoptServer(
                tuning, grid, self.token, self.url, self.project, self.experiment, self.timeout_s
            )
        except Exception as error:
            tuning.note(_failed(error))
            return None
        return WithFallback(tuning, server, local)


class WithFallback:
    """Asks a sampler, and from its first failure on the local one, which learns all that was measured.

    Args:
        tuning: is told of the failure.
        first: may fail.
        local: goes on.
    """

    def __init__(self, tuning: Tuning, first: Sampler, local: OptunaSampler):
        self._tuning = tuning
        self._first: Sampler | None = first
        self._local = local
        self._open: list[Point] = []  # asked of the first and not told yet
        self._measured: list[Trial] = []

    def ask(self) -> Point:
        if self._first is not None:
            try:
                point = self._first.ask()
            except Exception as error:
                self._give_up(error)
            else:
                self._open.append(point)
                return point
        return self._local.ask()

    def tell(self, point: Point, trial: Trial) -> None:
        if point not in self._open:
            self._local.tell(point, trial)
            return
        self._open.remove(point)
        if self._first is None:
            self._local.observe(trial)
            return
        self._measured.append(trial)
        try:
            self._first.tell(point, trial)
        except Exception as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self._first = None
        self._tuning.note(_failed(error))
        for trial in self._measured:
            self._local.observe(trial)


def _failed(error: Exception) -> str:
    return f"sigopt: the server failed ({type(error).__name__}: {error}); the search goes on locally"


def local_sampler(tuning: Tuning, grid: Dimensions) -> OptunaSampler:
    """Constrained TPE: latency or objective are minimised, the shortfall must not exceed 0."""
    from optuna.samplers import TPESampler

    def values(trial: Trial) -> tuple[float] | None:
        return None if trial.values is None else (latency_cost(tuning, trial),)

    def constraints(trial: Trial) -> tuple[float, ...]:
        lacking = shortfall(tuning, trial)
        return () if lacking is None else (lacking,)

    return OptunaSampler(
        lambda: TPESampler(
            seed=tuning.seed,
            multivariate=True,
            group=True,
            constant_liar=True,
            constraints_func=read_constraints,
        ),
        grid,
        values,
        constraints=constraints,
    )
