"""A thin adapter to a SigOpt server of one's own, through the `sigopt` client."""

from collections import defaultdict, deque
from typing import Any

from disttune.space.dimensions import Dimensions, Point
from disttune.strategy.loss import cost
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
    """

    def __init__(
        self, tuning: Tuning, grid: Dimensions, token: str, url: str, project: str | None, experiment: str
    ):
        import sigopt

        self._tuning = tuning
        self._grid = grid
        self._connection: Any = sigopt.Connection(client_token=token)
        self._connection.set_api_url(url)
        goal = tuning.goal
        created = self._connection.experiments().create(
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
        self._id = created.id
        self._open: dict[Point, deque[Any]] = defaultdict(deque)

    def ask(self) -> Point:
        suggestion = self._connection.experiments(self._id).suggestions().create()
        point = tuple(int(suggestion.assignments[name]) for name in self._grid.names)
        self._open[point].append(suggestion)
        return point

    def tell(self, point: Point, trial: Trial) -> None:
        facts: dict[str, Any] = {"failed": True}
        if trial.metric is not None:
            metrics = {"accuracy": trial.metric, "cost": cost(self._tuning, trial)}
            facts = {"values": [{"name": name, "value": value} for name, value in metrics.items()]}
        suggestion = self._open[point].popleft()
        self._connection.experiments(self._id).observations().create(suggestion=suggestion.id, **facts)
