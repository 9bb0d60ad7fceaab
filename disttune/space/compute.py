"""How much of a model's computing a candidate quantizes, and how it spreads over op types.

Pure. Computing is counted in multiply-adds of the space's ops; where none are counted, in ops.
"""

from collections.abc import Iterable, Mapping

from disttune.space.candidate import Candidate
from disttune.space.summary import ModelSummary


def quantized_share(candidate: Candidate, summary: ModelSummary) -> float:
    """Share of the computing of the candidate's ops that it quantizes, 0 to 1.

    Ops that the job leaves in float in every candidate are no part of it.
    """
    costs = _costs(candidate.ops, summary)
    total = sum(costs.values())
    return sum(costs[op] for op in candidate.quantized_ops) / total if total else 0.0


def types_by_compute(types: Mapping[str, str], summary: ModelSummary) -> list[str]:
    """Op types, the one with the greatest share of the computing first; ties in order of appearance.

    Args:
        types: op to its type.
        summary: the model.
    """
    macs = {op.name: op.n_macs for op in summary.ops}
    totals = dict.fromkeys(types.values(), 0)
    for op, op_type in types.items():
        totals[op_type] += macs[op]
    return sorted(totals, key=lambda op_type: -totals[op_type])


def _costs(ops: Iterable[str], summary: ModelSummary) -> dict[str, int]:
    macs = {op.name: op.n_macs for op in summary.ops}
    costs = {op: macs[op] for op in ops}
    return costs if any(costs.values()) else dict.fromkeys(costs, 1)
