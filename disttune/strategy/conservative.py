"""Conservative: from all float, op type by op type, keeping what stays within the goal.

The order of types: Conv, ConvTranspose; MatMul, Gemm, Attention; LSTM, GRU; Gather and embeddings; the
rest by share of the computing. Each type is quantized as in the default candidate, on top of what was
kept, and kept when the goal is met; a met goal ends nothing here. At most one trial per type.

Source: INC 2.6, quant_level 0. What we do differently: all types, not four; budgets hold.
"""

from collections.abc import Generator

from disttune.space.candidate import Candidate
from disttune.space.compute import quantized_share, types_by_compute
from disttune.space.space import Space
from disttune.strategy.registry import register_strategy
from disttune.strategy.stage import Stage, StageResult
from disttune.strategy.trial import Trial
from disttune.strategy.tuning import Tuning

TYPE_ORDER = (
    "Conv", "ConvTranspose",
    "MatMul", "Gemm", "Attention",
    "LSTM", "GRU",
    "Gather", "GatherElements", "GatherND", "EmbedLayerNormalization",
)  # fmt: skip


@register_strategy("conservative")
class Conservative:
    def stages(self, tuning: Tuning) -> Generator[Stage, StageResult, None]:
        prefer_quantized(tuning)
        yield from type_by_type(tuning, tuning.space)


def prefer_quantized(tuning: Tuning) -> None:
    """Of the trials that meet the goal let the one with most of its computing quantized be best.

    In a search that only adds to what it has kept this is the last kept one.
    """
    summary = tuning.summary
    tuning.prefer_most(lambda c: (quantized_share(c, summary), float(len(c.quantized_ops))))


def type_by_type(tuning: Tuning, space: Space) -> Generator[Stage, StageResult, Trial | None]:
    """The stages; returns the last row that was kept, or None."""
    default = space.default_candidate()
    candidate = default.in_float(*default.quantized_ops)
    kept: Trial | None = None
    for op_type in ordered_types(tuning, default):
        ops = [op for op in default.quantized_ops if space.types[op] == op_type]
        tried = candidate.with_configs({op: default.config_of(op) for op in ops})
        result = yield Stage(f"{op_type} quantized", [tried], needs="goal", goal_stops=False)
        if result.goal_met:
            candidate, kept = tried, result.trials[0]
    return kept


def ordered_types(tuning: Tuning, default: Candidate) -> list[str]:
    """Types of the ops that the default candidate quantizes, in the order of trial."""
    types = {op: tuning.space.types[op] for op in default.quantized_ops}
    rest = [t for t in types_by_compute(types, tuning.summary) if t not in TYPE_ORDER]
    return [t for t in TYPE_ORDER if t in types.values()] + rest
