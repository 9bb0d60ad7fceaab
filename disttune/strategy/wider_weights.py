"""Weights of few bits get 8 before their ops go back to float: a stage of weight-only searches.

A probe of each op gives the error of the model's outputs with its weight alone in 8 bits; then the ops whose
8 bits leave the least have them together: one, two, four ... all of them, until the goal is met. An op has
the first option of 8 bits that the job lists for it; where there is none the stage does not take place.
"""

from collections.abc import Mapping

from disttune.config.schemes import OpConfig
from disttune.space.candidate import Candidate
from disttune.space.precisions import bits_of
from disttune.space.space import Space
from disttune.strategy.fallback_stages import Stages, ranked_by_probe
from disttune.strategy.so_far import SoFar
from disttune.strategy.stage import Probe, Stage
from disttune.strategy.tuning import Tuning

WIDE = 8
N_FEEDS = 4


def weights_in_8_bits(tuning: Tuning, space: Space, so_far: SoFar) -> Stages:
    """The stages, from the best so far.

    Args:
        tuning: is told why they are left out.
        space: its options have the configs of 8 bits.
        so_far: takes the rows.
    """
    base = so_far.best
    narrow = [op for op in base.quantized_ops if _weight_bits(base.config_of(op)) < WIDE]
    if not narrow:
        return
    wider = {op: config for op in narrow if (config := _wide_option(space, op)) is not None}
    if not wider:
        tuning.note("weights in 8 bits: skipped, the job lists no such option")
        return
    ops = list(wider)[::-1]
    alone = [Probe("fallback_mse", {"n_feeds": N_FEEDS}, base.with_configs({op: wider[op]})) for op in ops]
    order = yield from ranked_by_probe(
        tuning, so_far, "error with one weight in 8 bits", ops, alone, least=True
    )
    sizes = [2**n for n in range(len(ops).bit_length()) if 2**n < len(ops)] + [len(ops)]
    yield from so_far.run(Stage("weights in 8 bits together", _first(base, order, wider, sizes)))


def _first(
    base: Candidate, order: list[str], wider: Mapping[str, OpConfig], sizes: list[int]
) -> list[Candidate]:
    return [base.with_configs({op: wider[op] for op in order[:n]}) for n in sizes]


def _weight_bits(config: OpConfig) -> int:
    """Of weights alone; others count as wide."""
    alone = config.approach == "weight_only" and config.weight is not None
    return bits_of(config.weight.dtype) if alone and config.weight is not None else WIDE


def _wide_option(space: Space, op: str) -> OpConfig | None:
    options = (o for o in space.options.get(op, ()) if o.approach == "weight_only" and o.weight is not None)
    return next((o for o in options if o.weight is not None and bits_of(o.weight.dtype) == WIDE), None)
