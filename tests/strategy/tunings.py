"""What a strategy sees, for tests: a tuning of a small model, and the candidates that it proposes."""

from itertools import islice
from typing import Any

from disttune.config.goal import Goal, Objective
from disttune.config.quantization_section import QuantizationSection
from disttune.space.build import build_space
from disttune.space.candidate import Candidate
from disttune.space.capability import load_capability
from disttune.space.space import Space
from disttune.space.summary import ModelSummary
from disttune.strategy import Stage, StageResult, Strategy, Tuning
from tests.builders import chain

METHODS = frozenset({"minmax", "percentile", "entropy"})
GOAL = Goal((Objective("accuracy"),), (1.0,))


def space_of(summary: ModelSummary, **quantization: Any) -> Space:
    return build_space(summary, load_capability("ort-cpu"), QuantizationSection(**quantization), METHODS)


def tuning_of(*op_types: str, seed: int = 0, **quantization: Any) -> Tuning:
    """For a chain of ops of these types, named `Conv_0`, `MatMul_1` ...; further options of the job."""
    summary = chain(*op_types)
    return Tuning(space_of(summary, **quantization), summary, GOAL, seed)


def stages_of(strategy: Strategy, tuning: Tuning) -> list[Stage]:
    """All stages, where no trial was measured."""
    generator = strategy.stages(tuning)
    stages = [next(generator)]
    while True:
        try:
            stages.append(generator.send(StageResult(stages[-1].name, tuning.goal)))
        except StopIteration:
            return stages


def proposals(strategy: Strategy, tuning: Tuning, limit: int = 10_000) -> list[Candidate]:
    """The candidates of its only stage."""
    (stage,) = stages_of(strategy, tuning)
    return list(islice(stage.items, limit))  # type: ignore[arg-type]
