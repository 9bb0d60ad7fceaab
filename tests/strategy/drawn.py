"""Random small jobs for strategies: a model with or without residual layers, its space, a landscape.

Everything follows from one seed, so that a failing case is one number.
"""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from disttune.config.errors import InputError
from disttune.config.quantization_section import QuantizationSection
from disttune.schedule.exit_policy import ExitPolicy
from disttune.schedule.simulation import SimulatedJob
from disttune.space.build import build_space
from disttune.space.candidate import Candidate
from disttune.space.capability import load_capability
from disttune.space.space import Space
from disttune.space.summary import ModelSummary, OpSummary
from disttune.strategy.registry import Strategy
from tests.builders import model, op

METHODS = frozenset({"minmax", "percentile"})
RECIPES = (
    "first_conv_or_matmul_quantization",
    "last_conv_or_matmul_quantization",
    "pre_post_process_quantization",
)
HEAD_TYPES = ("Conv", "Conv", "MatMul", "Gemm", "Relu", "LSTM", "Gather", "ConvTranspose")
PENALTIES = (0.0, 0.0, 0.0, 0.01, 0.02, 0.05, 0.1)


@dataclass(frozen=True)
class Drawn:
    """A random job.

    Args:
        seed: that it came from.
        summary: of its model.
        space: of the job.
        blocks: ops of each residual layer, in graph order.
        metric: of a candidate; raises for some.
        model: digest of the model of a candidate; several candidates may share one.
        goal: target of the metric.
        max_trials: budget.
    """

    seed: int
    summary: ModelSummary
    space: Space
    blocks: tuple[tuple[str, ...], ...]
    metric: Callable[[Candidate], float]
    model: Callable[[Candidate], str]
    goal: float
    max_trials: int

    def job(self, strategy: Callable[[], Strategy], **options: object) -> SimulatedJob:
        stop_at = options.pop("stop_at", "goal")
        defaults: dict[str, object] = {
            "policy": ExitPolicy(stop_at, max_trials=self.max_trials),
            "duration_s": lambda item, rank: random.Random(f"{self.seed}{rank}{item}").uniform(0.1, 3),
        }
        return SimulatedJob(
            strategy,
            self.space,
            self.metric,
            goal=self.goal,
            model=self.model,
            summary=self.summary,
            seed=self.seed,
            **(defaults | options),
        )


def drawn(seed: int) -> Drawn:
    """The job of a seed."""
    rng = random.Random(f"job {seed}")
    while True:
        summary, blocks = _model(rng)
        try:
            space = _space(rng, summary)
        except InputError:  # nothing to quantize
            continue
        metric, digest = landscape(rng.randrange(10**6), rng.random() < 0.4)
        goal = rng.choice([0.999, 0.97, 0.95, 0.9, 0.8, 2.0])
        return Drawn(seed, summary, space, blocks, metric, digest, goal, rng.choice([1, 3, 8, 20, 60, 300]))


def _model(rng: random.Random) -> tuple[ModelSummary, tuple[tuple[str, ...], ...]]:
    ops: list[OpSummary] = []
    blocks = []
    stream = "x"
    for layer in range(rng.choice([0, 0, 0, 1, 2])):
        first = _op(rng, "MatMul", f"layer{layer}_in", stream)
        middle = _op(rng, "Relu", f"layer{layer}_act", first.outputs[0])
        last = _op(rng, "MatMul", f"layer{layer}_out", middle.outputs[0])
        added = op("Add", f"layer{layer}_add", (stream, last.outputs[0]))
        ops += [first, middle, last, added]
        blocks.append((first.name, middle.name, last.name))
        stream = added.outputs[0]
    for position in range(rng.randint(1, 4)):
        op_type = rng.choice(HEAD_TYPES)
        ops.append(_op(rng, op_type, f"{op_type}_{position}", stream))
        stream = ops[-1].outputs[0]
    return model(*ops), tuple(blocks)


def _op(rng: random.Random, op_type: str, name: str, given: str) -> OpSummary:
    channels = rng.choice([8, 8, 8, 1]) if op_type != "Relu" else 0
    n_macs = rng.choice([0, 10, 100, 1000]) if op_type in ("Conv", "MatMul", "Gemm") else 0
    return replace(op(op_type, name, (given,), channels), n_macs=n_macs)


def _space(rng: random.Random, summary: ModelSummary) -> Space:
    quantization: dict[str, object] = {
        "approach": rng.choice(["static", "static", "dynamic", "auto", "auto"]),
        "placement": rng.choice(["speed", "speed", "all"]),
        "op_types": {},
        "op_names": {},
        "recipes": {},
    }
    for o in summary.ops:
        if rng.random() < 0.25:
            values = rng.choice([["per_tensor"], ["per_tensor", "per_channel"], ["per_channel"]])
            quantization["op_names"][o.name] = {"weight": {"granularity": values}}
    for op_type in dict.fromkeys(o.op_type for o in summary.ops):
        if rng.random() < 0.4:
            values = rng.choice([["minmax"], ["percentile", "minmax"], ["percentile:99"]])
            quantization["op_types"][op_type] = {"activation": {"method": values}}
    for recipe in RECIPES:
        if rng.random() < 0.5:
            quantization["recipes"][recipe] = rng.choice([True, False, [False, True], [True, False]])
    return build_space(
        summary,
        load_capability("ort-cpu"),
        QuantizationSection(**quantization),
        METHODS,
        approaches=rng.choice([("static", "dynamic"), ("static", "dynamic", "weight_only")]),
    )


def landscape(seed: int, fails: bool) -> tuple[Callable[[Candidate], float], Callable[[Candidate], str]]:
    """A metric that falls with each op by its config, and the digest of the model.

    For some ops the threshold method changes nothing: equal models have equal metrics.
    """

    def facts(candidate: Candidate) -> Mapping[str, str]:
        return {name: _seen(seed, name, str(config)) for name, config in candidate.configs().items()}

    def digest(candidate: Candidate) -> str:
        return str(random.Random(f"{seed}{facts(candidate)}").random())

    def metric(candidate: Candidate) -> float:
        rng = random.Random(f"{seed}fails{digest(candidate)}")
        if fails and rng.random() < 0.15:
            raise ValueError("evaluation failed")
        losses = (
            random.Random(f"{seed}{name}{text}").choice(PENALTIES)
            for name, text in facts(candidate).items()
            if text != "float32"
        )
        return round(1 - sum(losses), 6)

    return metric, digest


def _seen(seed: int, name: str, text: str) -> str:
    blind = random.Random(f"{seed}blind{name}").random() < 0.4
    return text.replace("percentile 99.999", "minmax") if blind else text
