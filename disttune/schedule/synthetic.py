"""Synthetic models with spaces and accuracy landscapes, to try strategies on without a model.

Pure. A landscape is a function of the candidate's choice and a seed alone.
"""

import random
from collections.abc import Callable, Sequence

from disttune.config.quantization_section import QuantizationSection
from disttune.space.build import build_space
from disttune.space.candidate import Candidate
from disttune.space.capability import load_capability
from disttune.space.space import Space
from disttune.space.summary import ModelSummary, OpSummary, WeightSummary

METHODS = frozenset({"minmax", "percentile"})
N_CHANNELS = 8


def synthetic_cnn(n_convs: int = 3) -> ModelSummary:
    """Convolutions one after another, each with a Relu, and a Gemm at the end."""
    ops: list[OpSummary] = []
    stream = "x"
    for i in range(n_convs):
        ops.append(_op("Conv", f"conv_{i}", [stream], n_macs=1000 * (i + 1)))
        ops.append(_op("Relu", f"relu_{i}", ops[-1].outputs))
        stream = ops[-1].outputs[0]
    ops.append(_op("Gemm", "classifier", [stream], n_macs=100))
    return _model(ops)


def synthetic_transformer(n_layers: int = 2) -> ModelSummary:
    """Residual layers with an attention and a feed-forward block each, and a Gemm at the end."""
    ops: list[OpSummary] = []
    stream = "x"
    for i in range(n_layers):
        ops.append(_op("MatMul", f"layer_{i}/qkv", [stream], n_macs=300))
        ops.append(_op("MatMul", f"layer_{i}/output", ops[-1].outputs, n_macs=100))
        ops.append(_op("Add", f"layer_{i}/attended", [stream, ops[-1].outputs[0]]))
        stream = ops[-1].outputs[0]
        ops.append(_op("MatMul", f"layer_{i}/expand", [stream], n_macs=400))
        ops.append(_op("MatMul", f"layer_{i}/shrink", ops[-1].outputs, n_macs=400))
        ops.append(_op("Add", f"layer_{i}/done", [stream, ops[-1].outputs[0]]))
        stream = ops[-1].outputs[0]
    ops.append(_op("Gemm", "classifier", [stream], n_macs=50))
    return _model(ops)


def synthetic_space(summary: ModelSummary, approach: str = "static") -> Space:
    """The space of a model on `ort-cpu` with two threshold methods."""
    section = QuantizationSection.model_validate({"approach": approach})
    return build_space(summary, load_capability("ort-cpu"), section, METHODS)


def additive_landscape(
    seed: int, penalties: Sequence[float] = (0.0, 0.0, 0.01, 0.03, 0.1)
) -> Callable[[Candidate], float]:
    """A metric of 1 less a penalty for each quantized op, drawn for op and config."""

    def metric(candidate: Candidate) -> float:
        losses = (
            random.Random(f"{seed} {op} {candidate.config_of(op)}").choice(penalties)
            for op in candidate.quantized_ops
        )
        return 1 - sum(losses)

    return metric


def _op(op_type: str, name: str, inputs: Sequence[str], n_macs: int = 0) -> OpSummary:
    weight = None
    if op_type in ("Conv", "MatMul", "Gemm"):
        weight = WeightSummary(f"{name}.weight", 1, (N_CHANNELS, 4), N_CHANNELS, 16 * N_CHANNELS)
    return OpSummary(name, op_type, tuple(inputs), (f"{name}.out",), weight, n_macs)


def _model(ops: Sequence[OpSummary]) -> ModelSummary:
    size_bytes = sum(op.weight.size_bytes for op in ops if op.weight)
    return ModelSummary(tuple(ops), ("x",), ops[-1].outputs, 21, size_bytes, size_bytes // 4)
