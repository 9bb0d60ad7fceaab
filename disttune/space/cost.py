"""What a config costs as a share of the float model: bit operations and bytes of weights.

Pure. Bit operations of an op: multiply-adds x bits of the weight x bits of the activations (of a product of
two activations their bits twice); float types count sqrt(1.5) x their bits. An op whose multiply-adds are not
counted has a thousandth of the mean op's, so that it costs something to leave it in float.

Source: AIMET, bit operations of automatic mixed precision. What we do differently: MatMul counts, and so do
bytes and scales of groups.
"""

import math
from collections.abc import Iterable
from typing import Literal

from disttune.config.schemes import OpConfig, Scheme
from disttune.space.candidate import Candidate
from disttune.space.precisions import bits_of
from disttune.space.summary import ModelSummary, WeightSummary

Measure = Literal["bit_ops", "size", "both"]
MEASURES = ("both", "bit_ops", "size")
FLOAT_FACTOR = math.sqrt(1.5)
UNCOUNTED = 1e-3  # of the mean op's multiply-adds
SCALE_BITS = 32


class CostModel:
    """Costs that add up over ops: 1 is the float model's over the same ops.

    Args:
        summary: of the model.
        ops: that count.
        measure: "bit_ops", "size" (bytes of weights), or "both", half of each.
    """

    def __init__(self, summary: ModelSummary, ops: Iterable[str], measure: Measure = "both"):
        chosen = set(ops)
        self._ops = {op.name: op for op in summary.ops if op.name in chosen}
        n_macs = [op.n_macs for op in self._ops.values() if op.n_macs]
        least = UNCOUNTED * sum(n_macs) / len(n_macs) if n_macs else 1.0
        self._macs = {name: op.n_macs or least for name, op in self._ops.items()}
        self._stored: dict[str, WeightSummary | None] = {}
        for name, op in self._ops.items():  # a weight that several ops read is stored once
            known = {w.name for w in self._stored.values() if w}
            self._stored[name] = None if op.weight and op.weight.name in known else op.weight
        bits = (32 * FLOAT_FACTOR) ** 2 * sum(self._macs.values())
        stored_bits = 32 * sum(math.prod(w.shape) for w in self._stored.values() if w)
        share = {"bit_ops": 1.0, "size": 0.0, "both": 0.5}[measure]
        self._per_bit_op = share / bits if bits else 0.0
        self._per_bit = (1.0 - share) / stored_bits if stored_bits else 0.0

    def of(self, op: str, config: OpConfig) -> float:
        """The cost of one op with a config."""
        data = _bits(config.activation, config)
        weight = _bits(config.weight, config) if self._ops[op].weight else data
        stored = self._stored[op]
        n_bits = 0.0 if stored is None else math.prod(stored.shape) * _stored_bits(config.weight)
        return self._per_bit_op * self._macs[op] * data * weight + self._per_bit * n_bits

    def total(self, candidate: Candidate) -> float:
        """The cost of a candidate, over the ops that count."""
        return math.fsum(self.of(op, candidate.config_of(op)) for op in self._ops)


def _bits(scheme: Scheme | None, config: OpConfig) -> float:
    if scheme is not None:
        return bits_of(scheme.dtype)
    return FLOAT_FACTOR * bits_of(config.float_type)


def _stored_bits(scheme: Scheme | None) -> float:
    if scheme is None:
        return 32.0
    return bits_of(scheme.dtype) + (SCALE_BITS / scheme.group_size if scheme.group_size else 0.0)
