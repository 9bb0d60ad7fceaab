"""Helpers around the shipped simulation: small spaces, listed stages, recordings, landscapes."""

import random
from collections.abc import Callable, Generator, Sequence

from disttune.config.schemes import OpConfig, Scheme
from disttune.schedule.simulation import SimulatedJob, Simulation, row, simulate
from disttune.space.candidate import Candidate
from disttune.space.space import Space
from disttune.space.summary import ModelSummary, OpSummary
from disttune.strategy.stage import Stage, StageResult
from disttune.strategy.tuning import Tuning

__all__ = [
    "ACTIVATION", "Listed", "OPTIONS", "PER_CHANNEL", "PER_TENSOR", "SimulatedJob", "Simulation",
    "landscape", "row", "simulate", "small_space", "summary",
]  # fmt: skip

PER_CHANNEL = Scheme("int8", True, "per_channel")
PER_TENSOR = Scheme("int8", True, "per_tensor")
ACTIVATION = Scheme("uint8", False)
OPTIONS = (OpConfig("static", PER_CHANNEL, ACTIVATION), OpConfig("static", PER_TENSOR, ACTIVATION))


def small_space(n_ops: int = 3) -> Space:
    """Ops `conv_0` ... with two options each: 2 ** n_ops candidates."""
    names = [f"conv_{i}" for i in range(n_ops)]
    return Space(dict.fromkeys(names, OPTIONS), dict.fromkeys(names, "Conv"))


def summary(space: Space) -> ModelSummary:
    """A model of these ops in a row, 1,000 bytes."""
    ops = tuple(OpSummary(name, "Conv", (f"{name}_in",), (f"{name}_out",)) for name in space.ops)
    return ModelSummary(ops, ("x",), ("y",), 17, 1000, 250)


class Listed:
    """A strategy that yields the stages it is given."""

    def __init__(self, *stages: Stage):
        self.given = stages
        self.results: list[StageResult] = []

    def stages(self, tuning: Tuning) -> Generator[Stage, StageResult, None]:
        for stage in self.given:
            self.results.append((yield stage))


def landscape(seed: int, bad_ops: Sequence[str] = ()) -> Callable[[Candidate], float]:
    """A metric that falls with each op per tensor, more for bad ones, with noise fixed by the digest."""

    def metric(candidate: Candidate) -> float:
        noise = random.Random(f"{seed}{candidate.digest}").random() * 0.01
        n_tensor = sum(c.weight == PER_TENSOR for c in candidate.configs().values())
        n_bad = sum(candidate.config_of(op).quantized for op in bad_ops)
        return 1.0 - 0.02 * n_tensor - 0.1 * n_bad - noise

    return metric
