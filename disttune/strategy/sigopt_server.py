"""A thin adapter to a SigOpt server of one's own, through the `sigopt` client.

Each call runs in a thread of its own, so that a server that never answers holds nobody up for long.
"""

import queue
import threading
from collections import defaultdict, deque
from collections.abc import Callable
from typing import Any

from disttune.space.dimensions import Dimensions, Point
from disttune.strategy.loss import latency_cost
from disttune.strategy.trial import Trial
from disttune.strategy.tuning import Tuning


class SigoptServer:
    """See `batches.Sampler`; anything the client raises comes through.

    Args:
        tuning: goal, budget and size of a batch.
        grid: of the points; each dimension is a whole number there.
        token: of the server.
        url: address of the server.
        project: of the server, or None.
        experiment: its name.
        timeout_s: that each call may take.
    Raises:
        TimeoutError: a call took longer; raised by `ask` and `tell` as well.
    """

    def __init__(
        self,
        tuning: Tuning,
        grid: Dimensions,
        token: str,
        url: str,
        project: str | None,
        experiment: str,
        timeout_s: float,
    ):
        import sigopt

        self._tuning = tuning
        self._grid = grid
        self._timeout_s = timeout_s
        self._connection: Any = sigopt.Connection(client_token=token)
        self._connection.set_api_url(url)
        self._id = self._call(lambda: self._create(experiment, project)).id
        self._open: dict[Point, deque[Any]] = defaultdict(deque)

    def ask(self) -> Point:
        suggestion = self._call(lambda: self._connection.experiments(self._id).suggestions().create())
        point = tuple(int(suggestion.assignments[name]) for name in self._grid.names)
        self._open[point].append(suggestion)
        return point

    def tell(self, point: Point, trial: Trial) -> None:
        facts: dict[str, Any] = {"failed": True}
        if trial.metric is not None:
            metrics = {"accuracy": trial.metric, "cost": latency_cost(self._tuning, trial)}
            facts = {"values": [{"name": name, "value": value} for name, value in metrics.items()]}
        suggestion = self._open[point].popleft()
        self._call(
            lambda: (
                self._connection.experiments(self._id)
                .observations()
                .create(suggestion=suggestion.id, **facts)
            )
        )

    def _create(self, experiment: str, project: str | None) -> Any:
        tuning, grid, goal = self._tuning, self._grid, self._tuning.goal
        return self._connection.experiments().create(
            name=experiment,
            parameters=[
                {"name": name, "type": "int", "bounds": {"min": 0, "max": n - 1}}
                for name, n in zip(grid.names, grid.sizes, strict=True)
            ],
            metrics=[
                {
                    "name": "accuracy",
                    "objective": "maximize" if goal.higher_is_better else "minimize",
                    "strategy": "constraint",
                    "threshold": goal.target,
                },
                {"name": "cost", "objective": "minimize", "strategy": "optimize"},
            ],
            parallel_bandwidth=tuning.batch_size,
            observation_budget=tuning.max_trials,
            **({"project": project} if project else {}),
        )

    def _call(self, request: Callable[[], Any]) -> Any:
        answers: queue.SimpleQueue[tuple[Any, Exception | None]] = queue.SimpleQueue()

        def run() -> None:
            try:
                answers.put((request(), None))
            except Exception as error:
                answers.put((None, error))

        threading.Thread(target=run, name="sigopt", daemon=True).start()
        try:
            answer, error = answers.get(timeout=self._timeout_s)
        except queue.Empty:
            raise TimeoutError(f"no answer within {self._timeout_s:g} s") from None
        if error is not None:
            raise error
        return answer
